//! Holding one lock: when to extend it, when to check it, and what the answers mean.
//!
//! Extends and checks fall on a grid that all locks of a locker share. So the locks that are due
//! are due together, and travel in batches of the store's size: n held locks cost `ceil(n / 64)`
//! requests per interval, not n (L7). A lock that was acquired just before a point of the grid is
//! extended early, which costs nothing.

use super::Step;
use super::tenure::{Loss, Tenure};
use crate::backend::{BackendError, Standing};
use crate::identity::OwnerHash;
use crate::time::Instant;
use crate::timing::Timing;
use std::sync::Arc;
use std::time::Duration;

/// What a held lock asks of its store. Requests of one kind are meant to be sent in batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Set its TTL to L again.
    Extend(OwnerHash),
    /// Look whether it is still there.
    Check(OwnerHash),
}

/// One owned lock.
#[derive(Debug)]
pub struct Hold {
    tenure: Arc<Tenure>,
    timing: Timing,
    /// Where the shared grid begins.
    origin: Instant,
    next_extend: Instant,
    next_check: Instant,
    in_flight: Option<(Kind, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Extend,
    Check,
}

/// A step of this machine.
pub type HoldStep = Step<Hold, Request, Loss>;

impl Hold {
    /// Begins to hold what was granted. `origin` is the same for all locks of a locker.
    pub fn begin(now: Instant, tenure: Arc<Tenure>, timing: Timing, origin: Instant) -> HoldStep {
        // From the grant, not from now: a lock that was acquired just before a point of the grid
        // belongs to that point, however late the driver hears of it.
        let since = tenure.granted_at();
        let hold = Self {
            tenure,
            timing,
            origin,
            next_extend: grid(origin, since, timing.extend_every),
            next_check: grid(origin, since, timing.recheck_every),
            in_flight: None,
        };
        hold.next(now)
    }

    /// The grant.
    pub fn tenure(&self) -> &Arc<Tenure> {
        &self.tenure
    }

    /// Goes on at a moment it asked for, or at any other.
    pub fn on_wake(self, now: Instant) -> HoldStep {
        self.next(now)
    }

    /// Takes the answer to the request in flight.
    pub fn on_standing(mut self, now: Instant, answer: Result<Standing, BackendError>) -> HoldStep {
        let Some((kind, sent)) = self.in_flight.take() else {
            return self.next(now);
        };
        match answer {
            Ok(standing) => {
                let extended = (kind == Kind::Extend).then_some(sent);
                if let Err(loss) = self.tenure.learn(now, standing, extended, &self.timing) {
                    return Step::Done(loss);
                }
                if kind == Kind::Extend {
                    self.next_extend = grid(self.origin, now, self.timing.extend_every);
                }
                self.next_check = grid(self.origin, now, self.timing.recheck_every);
            }
            Err(_) => {
                // An error says nothing about the lock (S3 for the other side): the deadlines
                // decide. What cannot be read now is asked again soon.
                let again = now + self.timing.retry_after;
                match kind {
                    Kind::Extend => self.next_extend = again,
                    Kind::Check => self.next_check = again,
                }
            }
        }
        self.next(now)
    }

    fn next(mut self, now: Instant) -> HoldStep {
        let judged = match self.tenure.judge(now) {
            Ok(judged) => judged,
            Err(loss) => return Step::Done(loss),
        };
        // Required heartbeats: `judge` has just lost what did not beat for L, so whatever comes
        // here may be extended.
        if now >= self.next_extend {
            self.in_flight = Some((Kind::Extend, now));
            let request = Request::Extend(self.tenure.owner().clone());
            return Step::Call(self, request);
        }
        if now >= self.next_check {
            self.in_flight = Some((Kind::Check, now));
            let request = Request::Check(self.tenure.owner().clone());
            return Step::Call(self, request);
        }
        let until = judged.min(self.next_extend).min(self.next_check);
        Step::Sleep(self, until)
    }
}

/// The first point of the grid after `now`.
fn grid(origin: Instant, now: Instant, period: Duration) -> Instant {
    let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
    let elapsed = now.as_nanos().saturating_sub(origin.as_nanos());
    let passed = elapsed / period;
    origin + Duration::from_nanos(period.saturating_mul(passed.saturating_add(1)))
}
