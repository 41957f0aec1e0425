//! Giving a lock back for certain.
//!
//! There are two ways to come here. A lock that was *held* is released by its owner hash, once,
//! and repeated until the store has answered. An attempt of *unknown outcome* is settled: released
//! again and again until the store says that it can take no effect any more (S7). A lock can need
//! both: its first create may have got lost on the way, its second was granted, and the first could
//! still land after the release.
//!
//! The machine ends when there is nothing left at the store that this owner hash could leave there.
//!
//! *What may the owner be told?* What the store found when it first answered: later answers find
//! nothing, because of the first. But a release whose answer was lost may have been executed, and
//! then what the next one finds is its doing. It says neither that the lock was lost nor that it
//! was not, unless it is still the owner's own record ([`Word`]). It does not matter who asked: the
//! caller and the Reporter go on with one machine.

use super::Step;
use crate::backend::{BackendError, Effect, Released, Reply, Settlement};
use crate::identity::OwnerHash;
use crate::time::{Instant, StoreTime};
use crate::timing::Timing;
use std::time::Duration;

/// What a lock that is given back asks of its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Delete the record if it is this owner's.
    Release(OwnerHash),
    /// Delete what an attempt may have left, and say whether it is over.
    Settle(OwnerHash, StoreTime),
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// The store has confirmed that nothing of this owner is left.
    Confirmed(Word),
    /// The store did not confirm before the record ran out by itself. The error is the last one.
    RanOut(BackendError),
}

/// What the owner may be told about the lock that it has given back: what the store found when it
/// first answered. It is an error where an earlier release, whose effect is unknown, may be the
/// reason for that: whether the lock was lost is not known then, and will not be.
pub type Word = Result<Released, BackendError>;

impl End {
    /// What the owner may be told.
    ///
    /// # Errors
    ///
    /// Why nothing is known for certain, as in [`Word`].
    pub fn into_word(self) -> Word {
        match self {
            Self::Confirmed(word) => word,
            Self::RanOut(failure) => Err(failure),
        }
    }
}

/// A lock on its way back.
#[derive(Debug)]
pub struct Release {
    owner: OwnerHash,
    timing: Timing,
    /// After this the record has run out by itself, if no attempt is unsettled.
    gone_by: Instant,
    unsettled: Option<StoreTime>,
    /// The first failure that may have been none.
    doubt: Option<BackendError>,
    /// What follows from the first answer.
    word: Option<Word>,
    open_answers: u32,
}

/// A step of this machine.
pub type ReleaseStep = Step<Release, Request, End>;

/// How soon an attempt that may still land is settled again: at once, after 1 s, then at every
/// recheck. Where rechecks are more frequent than that, they are soon enough.
const SECOND_LOOK: Duration = Duration::from_secs(1);

impl Release {
    /// Gives back what `owner` has, or may have, at the store: it begins with a request.
    ///
    /// `gone_by` is when the record runs out by itself at the latest, by the owner's clock.
    /// `unsettled` is the latest `not_after` of an attempt of unknown outcome.
    pub fn begin(
        owner: OwnerHash,
        timing: Timing,
        gone_by: Instant,
        unsettled: Option<StoreTime>,
    ) -> (Self, Request) {
        let release = Self {
            owner,
            timing,
            gone_by,
            unsettled,
            doubt: None,
            word: None,
            open_answers: 0,
        };
        let request = release.request();
        (release, request)
    }

    /// Whose lock it is.
    pub fn owner(&self) -> &OwnerHash {
        &self.owner
    }

    /// What the owner may be told, once the store has answered; it may still be asked again.
    pub fn word(&self) -> Option<&Word> {
        self.word.as_ref()
    }

    /// Asks again; sooner than it meant to, where there is another connection to ask on.
    pub fn on_wake(self, _now: Instant) -> ReleaseStep {
        self.ask()
    }

    /// Takes the answer to a release.
    pub fn on_released(
        mut self,
        now: Instant,
        answer: Result<Reply<Released>, BackendError>,
    ) -> ReleaseStep {
        match answer {
            Ok(reply) => {
                let word = self.found(reply.value).clone();
                if self.unsettled.is_some() {
                    self.ask()
                } else {
                    Step::Done(End::Confirmed(word))
                }
            }
            Err(error) => self.failed(now, error),
        }
    }

    /// Takes the answer to a settlement.
    pub fn on_settled(
        mut self,
        now: Instant,
        answer: Result<Reply<Settlement>, BackendError>,
    ) -> ReleaseStep {
        match answer {
            Ok(Reply {
                value: Settlement::Final(released),
                ..
            }) => Step::Done(End::Confirmed(self.found(released).clone())),
            Ok(Reply {
                value: Settlement::Open(released),
                ..
            }) => {
                self.found(released);
                self.open_answers += 1;
                let recheck = self.timing.recheck_every;
                let pause = if self.open_answers == 1 {
                    // S7: gone within one recheck after it landed, however short a recheck is.
                    recheck.min(SECOND_LOOK)
                } else {
                    recheck
                };
                Step::Sleep(self, now + pause)
            }
            Err(error) => self.failed(now, error),
        }
    }

    fn ask(self) -> ReleaseStep {
        let request = self.request();
        Step::Call(self, request)
    }

    fn request(&self) -> Request {
        match self.unsettled {
            // What was held is released first, by the cheap way; what may still land comes after.
            Some(not_after) if self.word.is_some() || self.never_held() => {
                Request::Settle(self.owner.clone(), not_after)
            }
            _ => Request::Release(self.owner.clone()),
        }
    }

    /// Whether there was only an attempt, so that a settlement is all there is to do.
    fn never_held(&self) -> bool {
        self.gone_by == Instant::ZERO
    }

    /// The store has found this. Only the first time does it say something about the lock.
    fn found(&mut self, found: Released) -> &Word {
        let doubt = self.doubt.take();
        self.word.get_or_insert_with(|| match doubt {
            Some(failure) if found != Released::Done => Err(failure),
            _ => Ok(found),
        })
    }

    fn failed(mut self, now: Instant, error: BackendError) -> ReleaseStep {
        if error.effect() == Effect::Unknown {
            self.doubt.get_or_insert_with(|| error.clone());
        }
        if self.unsettled.is_none() && now >= self.gone_by {
            return Step::Done(End::RanOut(error));
        }
        // What is unsettled has no end of its own: the record it may leave belongs to a living
        // process, and nobody else would remove it.
        let pause = if error.kind().is_transient() {
            self.timing.retry_after
        } else {
            self.timing.recheck_every
        };
        Step::Sleep(self, now + pause)
    }
}
