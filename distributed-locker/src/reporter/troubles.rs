//! What the Reporter tells of requests about locks that fail: each way to fail at most once per recheck
//! interval, with the locks that were concerned meanwhile. So an outage of an hour under ten thousand
//! locks is a few events per interval, and a lock that cannot be read for ever does not hide the others.

use crate::events::{Event, Trouble};
use crate::shared::Shared;
use locker_core::{BackendError, ErrorKind, Instant, OwnerHash};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What was asked for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Extend,
    Check,
    Release,
    Settle,
}

/// What has failed since it was told the last time.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<Vec<Way>>);

/// One way to fail.
#[derive(Debug)]
struct Way {
    asked: Asked,
    kind: Option<ErrorKind>,
    told: Option<Instant>,
    last: Instant,
    owners: HashSet<OwnerHash>,
}

impl Troubles {
    /// Notes that this failed for these locks, and tells it if it is time. Without an error: what was
    /// answered leaves it open.
    pub(super) fn note(
        &self,
        shared: &Shared,
        asked: Asked,
        owners: impl IntoIterator<Item = OwnerHash>,
        error: Option<&BackendError>,
    ) {
        let now = shared.time.now();
        let told = self.at(now, shared.timing.recheck_every, asked, owners, error);
        if let Some(trouble) = told {
            shared.events.send(match asked {
                Asked::Extend => Event::ExtendFailed(trouble),
                Asked::Check => Event::CheckFailed(trouble),
                Asked::Release => Event::ReleaseUnconfirmed(trouble),
                Asked::Settle => Event::AttemptUnsettled(trouble),
            });
        }
    }

    fn at(
        &self,
        now: Instant,
        every: Duration,
        asked: Asked,
        owners: impl IntoIterator<Item = OwnerHash>,
        error: Option<&BackendError>,
    ) -> Option<Trouble> {
        let kind = error.map(BackendError::kind);
        let mut ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What has not failed for an interval is over, and its locks are no matter of the next time.
        ways.retain(|way| now.since(way.last) < every);
        let way = match ways
            .iter_mut()
            .position(|way| way.asked == asked && way.kind == kind)
        {
            Some(at) => &mut ways[at],
            None => {
                ways.push(Way {
                    asked,
                    kind,
                    told: None,
                    last: now,
                    owners: HashSet::new(),
                });
                ways.last_mut()?
            }
        };
        way.last = now;
        way.owners.extend(owners);
        if way.owners.is_empty() || way.told.is_some_and(|told| now.since(told) < every) {
            return None;
        }
        way.told = Some(now);
        let owners = std::mem::take(&mut way.owners);
        Some(Trouble {
            locks: owners.len(),
            owners: owners.into_iter().take(Trouble::SHOWN).collect(),
            error: error.cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use locker_core::{Effect, Host, Key, ProcessHash};

    const EVERY: Duration = Duration::from_secs(5);

    fn owner(n: u64) -> OwnerHash {
        let process = ProcessHash::new(&Host::new("h").unwrap(), 1, 1);
        OwnerHash::new(&Key::new("k").unwrap(), &process, n, None)
    }

    fn error(kind: ErrorKind) -> BackendError {
        BackendError::new(kind, Effect::NotApplied, "no")
    }

    /// How many locks it tells of, when these fail at this moment.
    fn fail(
        troubles: &Troubles,
        millis: u64,
        asked: Asked,
        owners: std::ops::Range<u64>,
        kind: ErrorKind,
    ) -> Option<usize> {
        let now = Instant::ZERO + Duration::from_millis(millis);
        let error = error(kind);
        let told = troubles.at(now, EVERY, asked, owners.map(owner), Some(&error))?;
        assert!(told.owners.len() == told.locks.min(Trouble::SHOWN));
        Some(told.locks)
    }

    #[test]
    fn what_goes_on_failing_is_told_once_per_interval_with_all_its_locks() {
        let troubles = Troubles::default();
        let kind = ErrorKind::Timeout;
        let mut told = Vec::new();
        for at in 0..60 {
            let owners = at..at + 10;
            told.extend(fail(&troubles, at * 250, Asked::Extend, owners, kind));
        }
        assert_eq!(told, [10, 29, 29]);
    }

    #[test]
    fn one_way_to_fail_does_not_hide_another() {
        let troubles = Troubles::default();
        let fail = |at, asked, kind| fail(&troubles, at, asked, 0..1, kind);
        assert_eq!(fail(0, Asked::Check, ErrorKind::Corrupt), Some(1));
        assert_eq!(fail(1, Asked::Check, ErrorKind::Corrupt), None);
        assert_eq!(fail(2, Asked::Check, ErrorKind::Timeout), Some(1));
        assert_eq!(fail(3, Asked::Extend, ErrorKind::Timeout), Some(1));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let troubles = Troubles::default();
        let fail = |at, owners| fail(&troubles, at, Asked::Release, owners, ErrorKind::Busy);
        assert_eq!(fail(0, 0..1), Some(1));
        assert_eq!(fail(100, 1..4), None);
        assert_eq!(fail(60_000, 9..10), Some(1), "the three are long free");
    }
}
