//! The life of one incarnation of a process: birth, renewals, and an end that is final.
//!
//! * A birth is sent once. If its outcome is unknown the incarnation is abandoned: another one is
//!   born, and the abandoned record, if there is one, dies by itself. So no late copy of a birth
//!   can bring a dead process back to life.
//! * A renewal counts from the moment it was sent, because it is the very request that set the TTL.
//! * The incarnation ends when its deadline passes by its own clock, or when its record is found
//!   gone, whichever is first. A renewal acknowledged after that counts for nothing.

use super::{Jitter, Step};
use crate::backend::{BackendError, Birth, Renewal, Reply};
use crate::deadline::Deadline;
use crate::identity::ProcessHash;
use crate::time::Instant;
use crate::timing::Timing;
use std::sync::Arc;

/// What an incarnation asks of its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Create its record.
    Create(ProcessHash),
    /// Renew its record.
    Renew(ProcessHash),
    /// End its record.
    Retire(ProcessHash),
}

/// How an incarnation ended.
#[derive(Debug)]
pub enum End {
    /// It was never confirmed; begin another one. The error is why, if there was one.
    Stillborn(Option<BackendError>),
    /// It could not report before its deadline.
    Lapsed,
    /// Its record was found gone.
    Gone,
    /// The store has confirmed that its record is gone.
    Retired,
    /// It was given up, and the store did not confirm that before the record had run out by itself.
    /// The error is the last one, if the store was asked.
    RanOut(Option<BackendError>),
}

/// One incarnation of a process.
#[derive(Debug)]
pub struct Report {
    process: ProcessHash,
    timing: Timing,
    deadline: Option<Arc<Deadline>>,
    sent: Instant,
    /// When the record has run out by itself, whatever happens.
    gone_by: Instant,
    retiring: bool,
    /// Why it is not retired yet.
    failure: Option<BackendError>,
    jitter: Jitter,
}

/// A step of this machine.
pub type ReportStep = Step<Report, Request, End>;

impl Report {
    /// Begins an incarnation under a hash that was never used before.
    pub fn begin(now: Instant, process: ProcessHash, timing: Timing, seed: u64) -> ReportStep {
        let request = Request::Create(process.clone());
        let gone_by = now + timing.liveness_ttl;
        let jitter = Jitter::new(seed);
        let report = Self {
            process,
            timing,
            deadline: None,
            sent: now,
            gone_by,
            retiring: false,
            failure: None,
            jitter,
        };
        Step::Call(report, request)
    }

    /// Which incarnation it is.
    pub fn process(&self) -> &ProcessHash {
        &self.process
    }

    /// Until when the incarnation lives by its own clock; `None` before its birth is confirmed.
    pub fn deadline(&self) -> Option<&Arc<Deadline>> {
        self.deadline.as_ref()
    }

    /// Whether it is ending its record, so that nothing else matters to it.
    pub fn is_retiring(&self) -> bool {
        self.retiring
    }

    /// Takes the answer to the birth.
    pub fn on_birth(
        mut self,
        now: Instant,
        answer: Result<Reply<Birth>, BackendError>,
    ) -> ReportStep {
        match answer {
            Ok(Reply {
                value: Birth::Created { valid_for },
                ..
            }) => {
                let ttl = valid_for.min(self.timing.liveness_ttl);
                let until = self.timing.valid_until(self.sent, ttl);
                if now >= until {
                    return Step::Done(End::Stillborn(None));
                }
                self.deadline = Some(Arc::new(Deadline::new(until)));
                self.rest(now)
            }
            Ok(Reply {
                value: Birth::Exists,
                ..
            }) => Step::Done(End::Stillborn(None)),
            Err(error) => Step::Done(End::Stillborn(Some(error))),
        }
    }

    /// Renews, if the incarnation still lives; retires, if that is what it is at.
    pub fn on_wake(mut self, now: Instant) -> ReportStep {
        if self.retiring {
            return self.ask_to_retire(now);
        }
        if !self.is_alive(now) {
            return Step::Done(End::Lapsed);
        }
        self.sent = now;
        let request = Request::Renew(self.process.clone());
        Step::Call(self, request)
    }

    /// Takes the answer to a renewal.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "answers are handed over, to every machine"
    )]
    pub fn on_renewal(
        mut self,
        now: Instant,
        answer: Result<Reply<Renewal>, BackendError>,
    ) -> ReportStep {
        match answer {
            Ok(Reply {
                value: Renewal::Renewed { valid_for },
                ..
            }) => {
                let ttl = valid_for.min(self.timing.liveness_ttl);
                let until = self.timing.valid_until(self.sent, ttl);
                let alive = self
                    .deadline
                    .as_ref()
                    .is_some_and(|deadline| deadline.extend(now, until));
                if !alive {
                    return Step::Done(End::Lapsed);
                }
                // The store counts from later than we sent it, but not later than now.
                self.gone_by = now + ttl;
                self.rest(now)
            }
            Ok(Reply {
                value: Renewal::Gone,
                ..
            }) => {
                if let Some(deadline) = &self.deadline {
                    deadline.lose();
                }
                Step::Done(End::Gone)
            }
            Err(_) if !self.is_alive(now) => Step::Done(End::Lapsed),
            Err(_) => {
                let again = now + self.jitter.up_to(self.timing.retry_after);
                Step::Sleep(self, again)
            }
        }
    }

    /// Ends the incarnation by its own will. Nothing may depend on it any more.
    pub fn retire(mut self, now: Instant) -> ReportStep {
        if let Some(deadline) = &self.deadline {
            deadline.lose();
        }
        self.retiring = true;
        self.ask_to_retire(now)
    }

    /// Ends the record of an incarnation that has ended by itself, as soon as its jobs have.
    pub fn retire_ended(now: Instant, process: ProcessHash, timing: Timing) -> ReportStep {
        let report = Self {
            process,
            timing,
            deadline: None,
            sent: now,
            // A renewal that nobody heard the answer of may have been the last.
            gone_by: now + timing.liveness_ttl,
            retiring: true,
            failure: None,
            jitter: Jitter::new(0),
        };
        report.ask_to_retire(now)
    }

    /// Takes the answer to a retirement.
    pub fn on_retired(
        mut self,
        now: Instant,
        answer: Result<Reply<()>, BackendError>,
    ) -> ReportStep {
        match answer {
            Ok(_) => Step::Done(End::Retired),
            Err(error) => {
                self.failure = Some(error);
                let again = now + self.timing.retry_after;
                Step::Sleep(self, again)
            }
        }
    }

    fn ask_to_retire(self, now: Instant) -> ReportStep {
        if now >= self.gone_by {
            return Step::Done(End::RanOut(self.failure));
        }
        let request = Request::Retire(self.process.clone());
        Step::Call(self, request)
    }

    fn rest(mut self, now: Instant) -> ReportStep {
        let next = self.sent + self.jitter.up_to(self.timing.report_every);
        let next = next.max(now);
        Step::Sleep(self, next)
    }

    fn is_alive(&self, now: Instant) -> bool {
        self.deadline
            .as_ref()
            .is_some_and(|deadline| deadline.is_valid(now))
    }
}
