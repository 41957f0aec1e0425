//! What the three connections of one locker know together: the base of the tokens, how far etcd's
//! revision has come, and under which revision the own process is written.
//!
//! Nothing here is believed: every claim compares all of it at the store, and a claim that is
//! refused learns what has changed.
//!
//! # A revision that went back
//!
//! A cluster that was wiped, or restored from a snapshot, begins again at a smaller revision, under
//! the same cluster id. A token is `base + revision`, so it would be smaller as well. Every answer
//! bears the revision, and an answer whose revision is smaller than one that was known *before its
//! request was sent* tells that this has happened. It is reported; the answer to a claim counts for
//! nothing; and the base is raised before anything is granted again.

use locker_core::{BackendError, Effect, ErrorKind, OwnerHash, ProcessHash};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many settlements are remembered. Claims on their way inside a process are as many as its
/// requests in flight, at most.
const SETTLED: usize = 1024;

/// After a batch in which somebody was refused, so many in which nobody was come before the next one that
/// is sent as a whole. Where somebody is refused again and again, hardly any is sent twice.
const CALM: u32 = 8;

/// What is shared.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The greatest revision of any linearizable answer.
    revision: AtomicI64,
    state: Mutex<State>,
    /// With which member the next connection begins.
    next_member: AtomicUsize,
    next_enrolment: AtomicU64,
    /// In how many more batches nobody may be refused before one is sent as a whole.
    wary: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    base: Option<Base>,
    own: HashMap<ProcessHash, Own>,
    /// Owners whose attempts are being settled, or were, the last ones at the end.
    settled: VecDeque<OwnerHash>,
    /// Enrolments that could not be withdrawn on the connection on which they were made.
    owed: Vec<Seat>,
}

/// What is added to a revision to make a token, as it stands in the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base(pub(crate) i64);

/// The own process, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    /// The revision that wrote it last. To settle is to write it again, so that every claim which
    /// is under way, and compares this, is refused.
    pub(crate) generation: i64,
    /// What its lease was granted for.
    pub(crate) ttl: Duration,
}

/// One enrolment of this locker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) name: Vec<u8>,
    /// What it was written with: a later enrolment of the same process is another one. It is known
    /// before the enrolment is sent, so one that was never answered can be withdrawn as well.
    pub(crate) number: u64,
}

/// The greatest revision that was known when a request was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known(i64);

impl Default for Shared {
    fn default() -> Self {
        let [first, ..] = RandomState::new().hash_one(0).to_be_bytes();
        Self {
            revision: AtomicI64::new(0),
            state: Mutex::default(),
            // Lockers begin with different members.
            next_member: AtomicUsize::new(usize::from(first)),
            next_enrolment: AtomicU64::new(1),
            wary: AtomicU32::new(0),
        }
    }
}

impl Shared {
    /// With which member a connection begins.
    pub(crate) fn first_member(&self) -> usize {
        self.next_member.fetch_add(1, Ordering::Relaxed)
    }

    /// A number that no enrolment of this locker had before.
    pub(crate) fn next_enrolment(&self) -> u64 {
        self.next_enrolment.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the next batch is sent as a whole.
    pub(crate) fn trusts_batches(&self) -> bool {
        self.wary.load(Ordering::Relaxed) == 0
    }

    /// Learns from a batch whether nobody in it was refused. It outlives the connection, which a slow
    /// store may cost: nothing is sent twice when there is least time for it.
    pub(crate) fn batch_went(&self, nobody_refused: bool) {
        if nobody_refused {
            let calmer = |wary: u32| wary.checked_sub(1);
            let order = Ordering::Relaxed;
            // At nothing there is nothing to take.
            let _ = self.wary.fetch_update(order, order, calmer);
        } else {
            self.wary.store(CALM, Ordering::Relaxed);
        }
    }

    /// To be asked before a request is sent.
    pub(crate) fn known(&self) -> Known {
        Known(self.revision.load(Ordering::SeqCst))
    }

    /// Takes the revision of a linearizable answer.
    ///
    /// # Errors
    ///
    /// The revision went back. What was written after the point to which it went back is lost.
    pub(crate) fn saw(&self, known: Known, revision: i64) -> Result<(), BackendError> {
        if revision >= known.0 {
            self.revision.fetch_max(revision, Ordering::SeqCst);
            return Ok(());
        }
        let mut state = self.state();
        // Who comes first reports it; those whose requests were under way find it reported.
        if self.revision.load(Ordering::SeqCst) >= known.0 {
            self.revision.store(revision, Ordering::SeqCst);
            state.base = None;
            state.own.clear();
            tracing::error!(
                before = known.0,
                now = revision,
                "etcd's revision went back: the cluster was wiped or restored, and what was \
                 written last is lost"
            );
        }
        Err(BackendError::new(
            ErrorKind::Unavailable,
            Effect::Unknown,
            "etcd's revision went back: the cluster was wiped, or restored from a snapshot",
        ))
    }

    pub(crate) fn base(&self) -> Option<Base> {
        self.state().base
    }

    pub(crate) fn learn_base(&self, base: Option<Base>) {
        self.state().base = base;
    }

    pub(crate) fn own(&self, process: &ProcessHash) -> Option<Own> {
        self.state().own.get(process).copied()
    }

    /// Takes what is known of the own process; `None` when it is gone.
    pub(crate) fn learn_own(&self, process: &ProcessHash, own: Option<Own>) {
        let mut state = self.state();
        match own {
            None => {
                state.own.remove(process);
            }
            Some(own) => {
                let known = state.own.entry(process.clone()).or_insert(own);
                // Answers may overtake each other; generations only grow.
                if known.generation < own.generation {
                    *known = own;
                }
            }
        }
    }

    /// Remembers that an owner is given up: a claim of it that is still on its way *inside* this
    /// process must not be sent with what is known after the settlement.
    pub(crate) fn settle(&self, owner: &OwnerHash) {
        let mut state = self.state();
        if !state.settled.contains(owner) {
            state.settled.push_back(owner.clone());
            if state.settled.len() > SETTLED {
                state.settled.pop_front();
            }
        }
    }

    /// Whether an owner was given up.
    pub(crate) fn is_settled(&self, owner: &OwnerHash) -> bool {
        self.state().settled.contains(owner)
    }

    /// Remembers an enrolment that is to be withdrawn.
    pub(crate) fn owe(&self, seat: Seat) {
        self.state().owed.push(seat);
    }

    /// What is to be withdrawn, to whoever does it.
    pub(crate) fn owed(&self) -> Vec<Seat> {
        std::mem::take(&mut self.state().owed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_that_went_back_is_told_and_forgets_the_base() {
        let shared = Shared::default();
        shared.saw(shared.known(), 100).unwrap();
        shared.learn_base(Some(Base(7)));
        let under_way = shared.known();
        let error = shared.saw(shared.known(), 40).unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown);
        assert_eq!(shared.base(), None);
        // What was under way is told as well; what comes after it is not.
        shared.saw(under_way, 41).unwrap_err();
        shared.learn_base(Some(Base(8)));
        shared.saw(shared.known(), 42).unwrap();
        assert_eq!(shared.base(), Some(Base(8)));
    }

    #[test]
    fn answers_that_overtake_each_other_went_nowhere() {
        let shared = Shared::default();
        let (slow, fast) = (shared.known(), shared.known());
        shared.saw(fast, 100).unwrap();
        shared.saw(slow, 99).unwrap();
    }
}
