//! What a worker does under a lock: step after step, each of them after a look at the guard.

use super::{Worker, name};
use crate::harness::event::Event;
use crate::harness::times::{as_micros, micros};
use crate::harness::witness::{Act, Answer};
use distributed_locker::{AcquireOptions, Force, LockGuard, ReleaseError};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long one step takes. It is long enough for two owners to be caught in the act.
const STEP: Duration = Duration::from_millis(1);

impl Worker {
    /// The job of one grant, and its release.
    pub(super) async fn job(&self, key: usize, guard: LockGuard, steps: u64) {
        let at = micros();
        let token = guard.token().get();
        let kept = self.start_keeping(key);
        let told = until(&guard);
        self.say.event_at(
            at,
            Event::Grant {
                key,
                token,
                owner: guard.owner_hash().to_string(),
                until: told.unwrap_or(at),
                kept,
                attempts: self.attempts(),
            },
        );
        let loss = tokio::select! {
            biased;
            loss = guard.lost() => Some(loss),
            () = self.steps(key, &guard, steps, told) => guard.loss(),
        };
        if let Some(loss) = loss {
            let now = micros();
            let until = until(&guard).unwrap_or(now);
            let reason = format!("{:?}", loss.reason);
            let reason = reason.split('(').next().unwrap_or_default().to_owned();
            self.say.event_at(
                now,
                Event::Loss {
                    key,
                    token,
                    reason,
                    until,
                },
            );
            self.orders().entry(key).or_default().holding = false;
            self.write_late(key, token);
            if kept {
                self.linger(key, &guard).await;
            }
        }
        self.say.event(Event::ReleaseSent { key, token });
        let answer = match guard.release().await {
            Ok(()) => "done",
            Err(ReleaseError::Lost(_)) => "lost",
            Err(ReleaseError::Unconfirmed(_)) => "unconfirmed",
            Err(_) => "other",
        };
        let answer = answer.to_owned();
        self.say.event(Event::Released { key, token, answer });
    }

    /// What a job does that does not listen: only the token is left to protect.
    fn write_late(&self, key: usize, token: u64) {
        let accepted = self.leave(key, token, Act::Late).is_ok();
        self.say.event(Event::Late {
            key,
            token,
            accepted,
        });
    }

    /// A job that does not end when it should: it keeps its lost guard, and looks whether it is
    /// ever valid again (S5).
    async fn linger(&self, key: usize, guard: &LockGuard) {
        let token = guard.token().get();
        let end = micros() + as_micros(self.times.t * 5 / 2);
        let mut was_invalid = false;
        while micros() < end && !self.ending.load(Ordering::Relaxed) {
            let valid = guard.is_valid();
            if valid && was_invalid {
                let until = until(guard).unwrap_or_default();
                self.say.event(Event::Revived { key, token, until });
                break;
            }
            was_invalid |= !valid;
            tokio::time::sleep(STEP * 5).await;
        }
        self.write_late(key, token);
    }

    /// Steps until the job is done, or may not go on. Whatever the deadline is other than it was told
    /// the last time is told: a report may be confirmed between any two looks.
    async fn steps(&self, key: usize, guard: &LockGuard, steps: u64, mut told: Option<u64>) {
        let token = guard.token().get();
        let job = guard.heartbeater();
        let (mut done, mut fenced) = (0, false);
        loop {
            let now = until(guard);
            if now != told {
                told = now;
                if let Some(until) = now {
                    self.say.event(Event::Valid { key, token, until });
                }
            }
            let kept = self.orders().get(&key).copied().unwrap_or_default();
            if kept.fork {
                self.orders().entry(key).or_default().fork = false;
                self.fork(guard).await;
            }
            if job.heartbeat().is_err() || done >= steps && !kept.holding {
                return;
            }
            if !guard.is_valid() {
                return;
            }
            match self.leave(key, token, Act::Begin) {
                Ok(()) => {
                    let _at_work = AtWork {
                        worker: self,
                        key,
                        token,
                    };
                    tokio::time::sleep(STEP).await;
                }
                // It is told of its loss, sooner or later; until then it tries again.
                Err(largest) => {
                    if !std::mem::replace(&mut fenced, true) {
                        self.say.event(Event::Fenced {
                            key,
                            token,
                            largest,
                        });
                    }
                    tokio::time::sleep(STEP).await;
                }
            }
            done += 1;
            if kept.holding {
                tokio::select! {
                    () = tokio::time::sleep(STEP * 4) => {}
                    () = self.let_go.notified() => {}
                }
            }
        }
    }

    fn leave(&self, key: usize, token: u64, act: Act) -> Answer {
        let Some(witness) = self.witnesses.get(key) else {
            return Ok(());
        };
        let mut witness = witness.lock().unwrap_or_else(PoisonError::into_inner);
        witness.leave(token, act).unwrap_or_else(|error| {
            let why = format!("the witness: {error}");
            self.say.event(Event::Failed { why });
            Ok(())
        })
    }

    /// A copy of this process, guard and all, tries to use the guard and the connection (S8). No
    /// Reporter runs in it, so its guard ends at its deadline.
    async fn fork(&self, guard: &LockGuard) {
        let from = micros();
        let Ok(fork::Fork::Child) = fork::fork() else {
            return;
        };
        let extended = guard.extend().await.is_ok();
        let other = name(self.witnesses.len());
        let acquired = self.locker.acquire(other.as_str(), AcquireOptions::new());
        let acquired = acquired.await.is_ok();
        let read = self
            .locker
            .read_lock_data(guard.key().clone())
            .await
            .is_ok();
        let forced = self.locker.force_release(guard.owner_hash(), Force::Now);
        let forced = forced.await.is_ok();
        while guard.is_valid() {
            std::thread::sleep(STEP);
        }
        let valid_micros = micros() - from;
        self.say.event(Event::Child {
            refused: !(extended || acquired || read || forced),
            valid_micros,
        });
        std::process::exit(0);
    }
}

/// A step under way. It is over when it is done, and also when its job is cancelled.
struct AtWork<'w> {
    worker: &'w Worker,
    key: usize,
    token: u64,
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        // An end is never refused anything: it only says that the step is over.
        let _ = self.worker.leave(self.key, self.token, Act::End);
    }
}

fn until(guard: &LockGuard) -> Option<u64> {
    guard.valid_until().map(|until| until.as_nanos() / 1000)
}
