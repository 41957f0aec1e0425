//! The time during which one grant is good: what the job reads and the Reporter writes.
//!
//! A tenure joins three limits, and is valid only within all of them:
//!
//! * the deadline of the *lock*: the last acknowledged create or extend;
//! * the deadline of the *process*: the last acknowledged report of the incarnation that the owner
//!   hash names, and of no other;
//! * the *beat*: with a required heartbeat, the last beat plus L.
//!
//! Reading it costs no I/O and takes no lock. That holds even if the Reporter is stopped: the
//! limits stay where they are and pass.

use crate::backend::Standing;
use crate::deadline::Deadline;
use crate::identity::OwnerHash;
use crate::time::Instant;
use crate::timing::Timing;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Why a lock was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossReason {
    /// Somebody else owns the lock.
    TakenOver(OwnerHash),
    /// The lock's own time ran out: the job did not beat, or the store did not acknowledge an
    /// extension in time.
    Expired,
    /// The process could not report in time that it lives.
    LivenessLapsed,
    /// An operator asked for the lock back.
    ForceReleased,
    /// The record is gone, and nobody knows why.
    Vanished,
    /// Its guard has given it back. That is no loss for the guard; what outlives it has to stop.
    Released,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakenOver(by) => write!(f, "{by} has taken it over"),
            Self::Expired => f.write_str("its time ran out without a heartbeat or an extension"),
            Self::LivenessLapsed => {
                f.write_str("the process could not report in time that it lives")
            }
            Self::ForceReleased => f.write_str("an operator asked for it back"),
            Self::Vanished => f.write_str("its record is gone from the store"),
            Self::Released => f.write_str("its guard has given it back"),
        }
    }
}

/// A loss: why, and until when the former owner may still clean up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: LossReason,
    /// As long as this moment lies ahead nobody else owns the lock: the loss was seen coming, and
    /// this is the hard deadline, one stop budget later. Otherwise it is when the loss was noticed,
    /// and says nothing of when somebody else may have become the owner.
    pub safe_until: Instant,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the lock is lost: {}", self.reason)
    }
}

impl std::error::Error for Loss {}

/// One grant, as long as it is good.
#[derive(Debug)]
pub struct Tenure {
    owner: OwnerHash,
    lock: Deadline,
    process: Arc<Deadline>,
    /// Nanoseconds of the owner's clock.
    last_beat: AtomicU64,
    beat_within: Option<Duration>,
    stop_budget: Duration,
    loss: OnceLock<Loss>,
    granted_at: Instant,
}

impl Tenure {
    /// A grant to `owner` that is good until `lock`, as long as its process is.
    ///
    /// `beat_within` is L where heartbeats are required; `now` counts as the first beat.
    pub fn new(
        owner: OwnerHash,
        now: Instant,
        lock: Instant,
        process: Arc<Deadline>,
        beat_within: Option<Duration>,
        stop_budget: Duration,
    ) -> Self {
        Self {
            owner,
            lock: Deadline::new(lock),
            process,
            last_beat: AtomicU64::new(now.as_nanos()),
            beat_within,
            stop_budget,
            loss: OnceLock::new(),
            granted_at: now,
        }
    }

    /// When it began.
    pub fn granted_at(&self) -> Instant {
        self.granted_at
    }

    /// Whose grant it is.
    pub fn owner(&self) -> &OwnerHash {
        &self.owner
    }

    /// Whether the owner may act as the owner at `now`. The first one who is told "no" makes the
    /// loss final.
    pub fn is_valid(&self, now: Instant) -> bool {
        if !self.lock.is_valid(now) || !self.process.is_valid(now) {
            return false;
        }
        match self.beat_limit() {
            // A beat that began before the limit may be noted after it: it must find a lock that
            // is lost, or it would move the limit under somebody who was told that it has passed.
            Some(limit) if now >= limit => {
                self.lose(LossReason::Expired, now + self.stop_budget);
                false
            }
            _ => true,
        }
    }

    /// Until when the owner may act, if nothing is renewed; `None` once that is over.
    pub fn valid_until(&self) -> Option<Instant> {
        let until = self.hard_deadline()?;
        Some(self.beat_limit().map_or(until, |limit| limit.min(until)))
    }

    /// Until when certainly nobody else owns the lock, if nothing more is confirmed: the first
    /// moment of the lock and of the process. A beat that does not come ends the tenure earlier,
    /// but nobody learns of that before it is judged; `None` once the tenure is over.
    pub fn hard_deadline(&self) -> Option<Instant> {
        Some(self.lock.get()?.min(self.process.get()?))
    }

    /// Notes that the job is alive, if the tenure is valid at `now`. Answers whether it is.
    pub fn beat(&self, now: Instant) -> bool {
        let valid = self.is_valid(now);
        if valid {
            // Concurrent beats may land in either order; both are younger than a clock reading ago.
            self.last_beat.store(now.as_nanos(), Ordering::Release);
        }
        valid
    }

    /// The last beat.
    pub fn last_beat(&self) -> Instant {
        Instant::from_nanos(self.last_beat.load(Ordering::Acquire))
    }

    fn beat_limit(&self) -> Option<Instant> {
        self.beat_within.map(|within| self.last_beat() + within)
    }

    /// The loss, once there is one.
    pub fn loss(&self) -> Option<&Loss> {
        self.loss.get()
    }

    /// Decides at `now` whether the job must stop: one stop budget before the process or the lock
    /// runs out, or when the job has not beaten in time.
    ///
    /// # Errors
    ///
    /// The loss, which is final: nothing that is acknowledged later revives the tenure. `Ok` says
    /// when to ask again, at the latest.
    pub fn judge(&self, now: Instant) -> Result<Instant, Loss> {
        if let Some(loss) = self.loss.get() {
            return Err(loss.clone());
        }
        let Some(process) = self.process.get() else {
            return Err(self.lose(LossReason::LivenessLapsed, now));
        };
        let Some(lock) = self.lock.get() else {
            return Err(self.lose(LossReason::Expired, now));
        };
        let process_soft = process - self.stop_budget;
        let lock_soft = lock - self.stop_budget;
        if now >= process_soft {
            return Err(self.condemn(LossReason::LivenessLapsed, process));
        }
        if now >= lock_soft {
            return Err(self.condemn(LossReason::Expired, lock));
        }
        let next = process_soft.min(lock_soft);
        match self.beat_limit() {
            // The limit itself is the end of validity, so the record outlives it by far; what is
            // still running gets one stop budget before the record goes.
            Some(limit) if now >= limit => {
                Err(self.lose(LossReason::Expired, now + self.stop_budget))
            }
            Some(limit) => Ok(next.min(limit)),
            None => Ok(next),
        }
    }

    /// Takes the store's word on how the lock stands.
    ///
    /// `extended` is when the request was sent, if it was an extension: the very request that set
    /// the TTL.
    ///
    /// # Errors
    ///
    /// The loss, if the word means one, or if there was one before.
    pub fn learn(
        &self,
        now: Instant,
        standing: Standing,
        extended: Option<Instant>,
        timing: &Timing,
    ) -> Result<(), Loss> {
        match standing {
            Standing::Mine => {
                if let Some(sent) = extended
                    && self.loss.get().is_none()
                {
                    // A late acknowledgement changes nothing: the deadline refuses it (S5).
                    self.lock
                        .extend(now, timing.valid_until(sent, timing.lock_ttl));
                }
                self.judge(now).map(|_| ())
            }
            Standing::Marked => {
                Err(self.condemn(LossReason::ForceReleased, now + timing.stop_budget))
            }
            Standing::Held(by) => Err(self.lose(LossReason::TakenOver(by), now)),
            Standing::Absent => Err(self.lose(LossReason::Vanished, now)),
        }
    }

    /// Loses the lock at once. The first loss counts; it is answered.
    pub fn lose(&self, reason: LossReason, safe_until: Instant) -> Loss {
        let loss = self
            .loss
            .get_or_init(|| Loss { reason, safe_until })
            .clone();
        // The reason is there before anybody can see that the tenure is over.
        self.lock.lose();
        loss
    }

    /// Loses the lock, but leaves the owner until `hard` to clean up, or until the deadline it has
    /// anyway, if that is earlier. The first loss counts.
    pub fn condemn(&self, reason: LossReason, hard: Instant) -> Loss {
        let hard = self.hard_deadline().map_or(hard, |own| own.min(hard));
        let loss = self
            .loss
            .get_or_init(|| Loss {
                reason,
                safe_until: hard,
            })
            .clone();
        self.lock.condemn(loss.safe_until);
        loss
    }

    /// Ends the tenure because its owner gives the lock back.
    ///
    /// # Errors
    ///
    /// The loss, if the lock was lost before: what has run out by `now` is not given back.
    pub fn close(&self, now: Instant) -> Result<(), Loss> {
        // Whatever it says is the loss then, or there is none and the lock is given back.
        drop(self.judge(now));
        let loss = self.lose(LossReason::Released, now);
        match loss.reason {
            LossReason::Released => Ok(()),
            _ => Err(loss),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Host, Key, ProcessHash};

    const L: Duration = Duration::from_secs(300);
    const BUDGET: Duration = Duration::from_millis(1500);

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn tenure(lock: Instant, process: Instant) -> Tenure {
        let hash = ProcessHash::new(&Host::new("web-1").unwrap(), 1, 1);
        let owner = OwnerHash::new(&Key::new("k").unwrap(), &hash, 1, None);
        let process = Arc::new(Deadline::new(process));
        Tenure::new(owner, at(0), lock, process, Some(L), BUDGET)
    }

    /// S5, attack 14: the thread of a beat reads the clock, is stopped, and notes the beat when
    /// another one has been told that the lock is lost.
    #[test]
    fn a_beat_that_is_noted_after_the_limit_revives_nothing() {
        let tenure = tenure(at(1000), at(1000));
        assert!(!tenure.is_valid(at(300)));
        assert!(!tenure.beat(at(299)), "the limit was seen to have passed");
        assert!(!tenure.is_valid(at(300)));
        assert_eq!(tenure.loss().unwrap().reason, LossReason::Expired);
    }

    /// S12: what ends a process must not lie in wait for a beat that may have come meanwhile.
    #[test]
    fn the_hard_deadline_is_that_of_the_store_and_not_of_the_next_beat() {
        let tenure = tenure(at(1000), at(305));
        assert_eq!(tenure.valid_until(), Some(at(300)));
        assert_eq!(tenure.hard_deadline(), Some(at(305)));
        let loss = tenure.judge(at(300)).unwrap_err();
        assert_eq!(loss.safe_until, at(300) + BUDGET);
    }

    /// L4: an operator's mark that is seen late gives no more time than there is.
    #[test]
    fn a_mark_leaves_no_more_time_than_the_process_has() {
        let timing = Timing::default();
        let tenure = tenure(at(1000), at(100));
        let loss = tenure.learn(at(99), Standing::Marked, None, &timing);
        let loss = loss.unwrap_err();
        assert_eq!(loss.reason, LossReason::ForceReleased);
        assert_eq!(loss.safe_until, at(100));
    }

    /// S5: whatever is acknowledged after the loss changes nothing.
    #[test]
    fn an_extension_acknowledged_after_the_loss_revives_nothing() {
        let timing = Timing::default();
        let tenure = tenure(at(100), at(1000));
        assert!(tenure.judge(at(99)).is_err(), "the stop budget has begun");
        let learnt = tenure.learn(at(99), Standing::Mine, Some(at(98)), &timing);
        assert_eq!(learnt.unwrap_err().reason, LossReason::Expired);
        assert!(tenure.is_valid(at(99)) && !tenure.is_valid(at(100)));
    }
}
