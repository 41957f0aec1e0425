//! Becoming the owner of a lock, or learning who is.
//!
//! Everything is asked under one owner hash, so a question whose answer got lost is simply asked
//! again. What an attempt of unknown outcome may leave behind is remembered in `unsettled`, also
//! when a later attempt succeeds: whoever gives the lock back must settle that too (S7).
//!
//! # Why a take-over robs nobody (S3)
//!
//! A process is taken for dead only by the store's own word, never because of an error, a time-out
//! or an empty answer; and the take-over compares the very record that was observed, and judges the
//! process again, at the store. Between the two the process cannot come back: its record is renewed
//! only while it is there, and created once.

use super::{Jitter, Step};
use crate::backend::{BackendError, Claim, Claimed, Effect, Held, Hint, Liveness, Observed, Reply};
use crate::identity::{Key, OwnerHash, ProcessHash, Token};
use crate::time::{Instant, StoreClock, StoreTime};
use crate::timing::Timing;
use std::time::Duration;

/// What an acquisition asks of its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Create the record.
    TryCreate(Claim),
    /// Replace the record of a dead process.
    TakeOver(Claim, Observed),
    /// Ask whether the holder lives.
    ReadProcess(ProcessHash),
    /// Look whether the lock is still free, before trying behind others.
    ReadLock(Key),
}

/// How an acquisition ended.
#[derive(Debug)]
pub struct End {
    /// What came of it.
    pub outcome: Outcome,
    /// The latest `not_after` of an attempt of unknown outcome. It must be settled, whatever the
    /// outcome says.
    pub unsettled: Option<StoreTime>,
}

/// What came of an acquisition.
#[derive(Debug)]
pub enum Outcome {
    /// The lock is the asker's.
    Granted {
        /// Its fencing token.
        token: Token,
        /// The moment from which its TTL counts.
        sent: Instant,
    },
    /// Somebody else holds it.
    Held(Box<Held>),
    /// The incarnation in the owner hash has ended; ask again as a new one.
    OwnerDead,
    /// The store could not be asked.
    Failed(BackendError),
}

/// How an acquisition waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until when to wait, for a lock that is held and for a store that does not answer; `None`
    /// means that a held lock is not waited for.
    pub wait_until: Option<Instant>,
    /// Until when to go on asking a store that does not answer, where a lock is not waited for.
    pub ask_until: Instant,
    /// How often to look without any hint.
    pub poll_every: Duration,
    /// How often to ask whether the holder is dead, where that costs next to nothing.
    pub cheap_death_poll: Option<Duration>,
}

/// One acquisition.
#[derive(Debug)]
pub struct Acquire {
    owner: OwnerHash,
    timing: Timing,
    patience: Patience,
    store_clock: StoreClock,
    jitter: Jitter,
    asked: Asked,
    /// When the last request was sent.
    sent: Instant,
    unsettled: Option<StoreTime>,
    too_late: u32,
    /// How often in a row nothing was heard of the holder's process.
    unheard: u32,
    /// The record that is being taken over, until the store has answered that.
    taking: Option<Observed>,
}

/// What the machine is waiting for.
#[derive(Debug)]
enum Asked {
    /// The answer to a claim.
    Claim { not_after: StoreTime },
    /// Whether the holder of this record lives; and when the lock was to be tried anyway.
    Process {
        held: Box<Held>,
        try_at: Option<Instant>,
    },
    /// Whether the lock is still free.
    Lock,
    /// Nothing: the store did not answer, and is asked again.
    Retry,
    /// Nothing: the lock is held, and tried again at the given moment at the latest.
    Free { held: Box<Held>, try_at: Instant },
    /// Nothing: others were hinted first, so look before trying; in any case when the lock was to
    /// be tried anyway.
    Turn { held: Box<Held>, try_at: Instant },
}

/// A step of this machine.
pub type AcquireStep = Step<Acquire, Request, End>;

/// How much later the k-th process in the order tries.
pub const TURN: Duration = Duration::from_millis(20);

/// After so many claims in a row that came too late, the store's clock is not to be relied on and
/// the next one waits.
const TOO_LATE_IN_A_ROW: u32 = 3;

/// How often the pause grows after which who has heard nothing of the holder's process looks again. By
/// default it has come to a recheck before.
const MOST_UNHEARD: u32 = 5;

impl Acquire {
    /// Begins to ask for the lock of `owner`.
    pub fn begin(
        now: Instant,
        owner: OwnerHash,
        timing: Timing,
        patience: Patience,
        store_clock: StoreClock,
        seed: u64,
    ) -> AcquireStep {
        let acquire = Self {
            owner,
            timing,
            patience,
            store_clock,
            jitter: Jitter::new(seed),
            asked: Asked::Lock,
            sent: now,
            unsettled: None,
            too_late: 0,
            unheard: 0,
            taking: None,
        };
        acquire.create(now)
    }

    /// Whether the machine waits for the lock to become free, so that a hint is of use.
    pub fn is_waiting(&self) -> bool {
        matches!(self.asked, Asked::Free { .. } | Asked::Turn { .. })
    }

    /// The latest `not_after` of an attempt of unknown outcome, so far.
    pub fn unsettled(&self) -> Option<StoreTime> {
        self.unsettled
    }

    /// Goes on at a moment it asked for, or earlier.
    pub fn on_wake(mut self, now: Instant) -> AcquireStep {
        match self.take_asked() {
            Asked::Free { held, .. } | Asked::Turn { held, .. } if self.is_out_of_time(now) => {
                self.end(Outcome::Held(held))
            }
            Asked::Turn { .. } => self.look(now),
            Asked::Free { held, try_at } if now < try_at => {
                if self.patience.cheap_death_poll.is_some() {
                    self.ask_process(now, held, Some(try_at))
                } else {
                    self.asked = Asked::Free { held, try_at };
                    Step::Sleep(self, try_at)
                }
            }
            // To wake it while a request is in flight is a mistake of the driver; asking once more
            // under the same owner hash is harmless.
            Asked::Retry => self.claim_again(now),
            Asked::Free { .. } | Asked::Claim { .. } | Asked::Process { .. } | Asked::Lock => {
                self.create(now)
            }
        }
    }

    /// Takes a hint while it waits.
    pub fn on_hint(mut self, now: Instant, hint: Hint) -> AcquireStep {
        match (hint, self.take_asked()) {
            (
                Hint::Free { place: place @ 1.. },
                Asked::Free { held, try_at } | Asked::Turn { held, try_at },
            ) => {
                // A hint may be forged, and the next may come before the turn has: what was to
                // happen without any hint is not put off (S10).
                let turn = try_at.min(now + TURN * place);
                self.asked = Asked::Turn { held, try_at };
                Step::Sleep(self, turn)
            }
            _ => self.create(now),
        }
    }

    /// Takes the answer to a create or a take-over.
    pub fn on_claimed(
        mut self,
        now: Instant,
        answer: Result<Reply<Claimed>, BackendError>,
    ) -> AcquireStep {
        let Asked::Claim { not_after } = self.take_asked() else {
            return self.create(now);
        };
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => {
                if error.effect() == Effect::Unknown {
                    self.unsettled = self.unsettled.max(Some(not_after));
                }
                return self.failed(now, error);
            }
        };
        self.heard(now, reply.store_time);
        match reply.value {
            Claimed::Granted(token) => {
                let sent = self.sent;
                self.end(Outcome::Granted { token, sent })
            }
            Claimed::Held(held) => {
                let refused = self.taking.take();
                self.consider(now, Box::new(held), refused.as_ref())
            }
            Claimed::Absent => {
                self.taking = None;
                self.create(now)
            }
            Claimed::OwnerDead => self.end(Outcome::OwnerDead),
            Claimed::TooLate => {
                self.too_late += 1;
                if self.too_late < TOO_LATE_IN_A_ROW {
                    // The answer has just told the store's time, so this one is in time.
                    self.claim_again(now)
                } else {
                    self.too_late = 0;
                    let error = BackendError::new(
                        crate::ErrorKind::Unavailable,
                        Effect::NotApplied,
                        "the store's clock runs away from every claim",
                    );
                    self.failed(now, error)
                }
            }
        }
    }

    /// Takes the answer to the question whether the holder lives.
    pub fn on_liveness(
        mut self,
        now: Instant,
        answer: Result<Reply<Liveness>, BackendError>,
    ) -> AcquireStep {
        let Asked::Process { held, try_at } = self.take_asked() else {
            return self.create(now);
        };
        match answer {
            Ok(reply) => {
                self.heard(now, reply.store_time);
                self.unheard = 0;
                match reply.value {
                    Liveness::Dead => self.take_over(now, held.observed),
                    Liveness::Alive(_) | Liveness::Unknown => self.wait_for(now, held, try_at),
                }
            }
            // No answer is not "dead". Nor does it take back what the store has said of the lock: that
            // somebody holds it. The process may lie where a store is silent, and the lock where it
            // is not. So who does not wait is told of the holder. Who waits does so as for one that
            // lives, and hears of the release meanwhile. But nobody has said how long this one has to
            // live, and it may have died just now (L2): so he looks again as after any failure, and
            // each time four times as late, up to a recheck, however seldom he is to look otherwise.
            Err(error) if error.kind().is_transient() => {
                let soon = now + self.pause_unheard();
                let try_at = try_at.unwrap_or_else(|| self.next_try(now, &held).min(soon));
                self.wait_for(now, held, Some(try_at))
            }
            Err(error) => self.failed(now, error),
        }
    }

    /// Takes the answer to the look at the lock.
    pub fn on_lock(
        mut self,
        now: Instant,
        answer: Result<Reply<Option<Held>>, BackendError>,
    ) -> AcquireStep {
        match answer {
            Ok(reply) => {
                self.heard(now, reply.store_time);
                match reply.value {
                    None => self.create(now),
                    Some(held) => self.consider(now, Box::new(held), None),
                }
            }
            Err(error) => self.failed(now, error),
        }
    }

    /// Decides about a record that somebody else has. `refused` is what the store has just refused
    /// to let be taken over, if it was asked for that.
    fn consider(
        mut self,
        now: Instant,
        held: Box<Held>,
        refused: Option<&Observed>,
    ) -> AcquireStep {
        if held.holder.is_some() {
            self.unheard = 0;
        }
        match held.holder {
            // The store has just refused to take this very record over, and calls its owner dead
            // all the same: it contradicts itself, and is asked again after a pause.
            Some(Liveness::Dead) if refused == Some(&held.observed) => {
                self.wait_for(now, held, None)
            }
            Some(Liveness::Dead) => self.take_over(now, held.observed),
            Some(Liveness::Alive(_) | Liveness::Unknown) => self.wait_for(now, held, None),
            None => self.ask_process(now, held, None),
        }
    }

    fn ask_process(self, now: Instant, held: Box<Held>, try_at: Option<Instant>) -> AcquireStep {
        let process = held.data.process().clone();
        let asked = Asked::Process { held, try_at };
        self.ask(now, asked, Request::ReadProcess(process))
    }

    /// Waits for a lock whose holder is not known to be dead. `try_at` is when it was to be tried anyway,
    /// if that was decided before: asking about the process must not put that off.
    fn wait_for(mut self, now: Instant, held: Box<Held>, try_at: Option<Instant>) -> AcquireStep {
        let Some(until) = self.patience.wait_until.filter(|until| now < *until) else {
            return self.end(Outcome::Held(held));
        };
        let try_at = try_at.unwrap_or_else(|| self.next_try(now, &held));
        let try_at = try_at.min(until);
        self.asked = Asked::Free { held, try_at };
        let wake_at = match self.patience.cheap_death_poll {
            Some(every) => try_at.min(now + every),
            None => try_at,
        };
        Step::Sleep(self, wake_at)
    }

    /// How long who has heard nothing of the holder's process waits before he looks again. Soon most of
    /// the time, because while he looks he heeds no hint, and where a store is silent that is long.
    fn pause_unheard(&mut self) -> Duration {
        let pause = self.timing.retry_after * 4_u32.pow(self.unheard);
        let pause = pause.min(self.timing.recheck_every);
        self.unheard = (self.unheard + 1).min(MOST_UNHEARD);
        self.jitter.up_to(pause)
    }

    /// When the lock is tried again without any hint.
    fn next_try(&mut self, now: Instant, held: &Held) -> Instant {
        let poll = now + self.jitter.up_to(self.patience.poll_every);
        // One tick later than the earliest possible death, by the store's own estimate.
        // No estimate is no reason to ask every millisecond.
        match held.free_in {
            Duration::ZERO => poll,
            left => poll.min(now + left + Duration::from_millis(1)),
        }
    }

    fn take_asked(&mut self) -> Asked {
        std::mem::replace(&mut self.asked, Asked::Lock)
    }

    fn is_out_of_time(&self, now: Instant) -> bool {
        self.patience.wait_until.is_none_or(|until| now >= until)
    }

    /// Asks just as before. A take-over without an answer, or one that came too late, has not been
    /// refused: the holder is as dead as he was, and the store knows whether it has happened.
    fn claim_again(mut self, now: Instant) -> AcquireStep {
        match self.taking.take() {
            Some(observed) => self.take_over(now, observed),
            None => self.create(now),
        }
    }

    fn create(self, now: Instant) -> AcquireStep {
        let (claim, asked) = self.claim(now);
        self.ask(now, asked, Request::TryCreate(claim))
    }

    fn take_over(mut self, now: Instant, observed: Observed) -> AcquireStep {
        self.taking = Some(observed.clone());
        let (claim, asked) = self.claim(now);
        self.ask(now, asked, Request::TakeOver(claim, observed))
    }

    fn look(self, now: Instant) -> AcquireStep {
        let key = self.owner.key().clone();
        self.ask(now, Asked::Lock, Request::ReadLock(key))
    }

    fn ask(mut self, now: Instant, asked: Asked, request: Request) -> AcquireStep {
        self.asked = asked;
        self.sent = now;
        Step::Call(self, request)
    }

    fn claim(&self, now: Instant) -> (Claim, Asked) {
        let not_after = match self.store_clock.estimate(now) {
            Some(store_now) => store_now + self.timing.not_after_patience(),
            // Only a store without a clock has told none by now; it bounds claims by other means.
            None => StoreTime::from_micros(u64::MAX),
        };
        let claim = Claim {
            owner: self.owner.clone(),
            ttl: self.timing.lock_ttl,
            not_after,
        };
        (claim, Asked::Claim { not_after })
    }

    fn heard(&mut self, now: Instant, store_time: Option<StoreTime>) {
        if let Some(told) = store_time {
            // Jumps are noticed where reports are made; here only the newest estimate counts.
            let _ = self.store_clock.observe(self.sent, told, now, &self.timing);
        }
    }

    fn failed(mut self, now: Instant, error: BackendError) -> AcquireStep {
        let until = self.patience.wait_until.unwrap_or(self.patience.ask_until);
        let again = now + self.jitter.up_to(self.timing.retry_after);
        if !error.kind().is_transient() || again >= until {
            return self.end(Outcome::Failed(error));
        }
        self.asked = Asked::Retry;
        Step::Sleep(self, again)
    }

    fn end(self, outcome: Outcome) -> AcquireStep {
        Step::Done(End {
            outcome,
            unsettled: self.unsettled,
        })
    }
}
