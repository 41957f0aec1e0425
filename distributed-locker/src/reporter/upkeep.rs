//! The loop that extends and checks the held locks.
//!
//! The hold machines put their requests on a common grid, so whatever is due is due together: the
//! loop gathers it, and sends it in batches of the store's size (L7).
//!
//! What has failed is asked about again apart from the others, and after them: a part of the store
//! that is silent must not keep the others' locks from being extended, and when nothing but it is
//! asked, its silence is seen for what it is. Of what has failed no more than one batch is asked in
//! vain in a round, and the next round begins with what was not asked: silence costs a round one
//! request timeout, however many locks lie there.

use super::departures;
use crate::link::Link;
use crate::registry::Entry;
use crate::shared::Shared;
use crate::time::Alarm;
use locker_core::backend::Standing;
use locker_core::machine::hold::{Hold, Request};
use locker_core::machine::{Loss, Step};
use locker_core::{Backend, BackendError, Effect, ErrorKind, Instant, OwnerHash};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Keeps the held locks, for ever.
pub(super) async fn run(shared: &Arc<Shared>, link: &Arc<Link>, turns: &Arc<Semaphore>) {
    let Ok(mut alarm) = Alarm::new(&shared.time) else {
        return;
    };
    let mut upkeep = Upkeep {
        shared,
        link,
        turns,
        kept: HashMap::new(),
    };
    loop {
        let next = upkeep.round().await;
        alarm.ring(next).await;
    }
}

struct Upkeep<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Arc<Link>,
    turns: &'a Arc<Semaphore>,
    /// By the numbers of their entries.
    kept: HashMap<u64, Kept>,
}

/// A held lock between two requests.
struct Kept {
    hold: Hold,
    failed: Failed,
}

/// When the last request about a lock was sent, if that has failed.
type Failed = Option<Instant>;

/// A lock that a request is to be sent for.
struct Due {
    entry: Arc<Entry>,
    hold: Hold,
    owner: OwnerHash,
    failed: Failed,
}

/// What is asked about a batch of locks.
#[derive(Clone, Copy)]
enum Ask {
    Extend,
    Check,
}

impl Upkeep<'_> {
    /// Asks the store about everything that is due, and answers when the next round is.
    async fn round(&mut self) -> Instant {
        let now = self.shared.time.now();
        // Each without what has failed, and then that.
        let mut extends = [Vec::new(), Vec::new()];
        let mut checks = [Vec::new(), Vec::new()];
        // The grid has a point at every recheck, so a lock that is acquired meanwhile is in time.
        let mut next = now + self.shared.timing.recheck_every;
        let mut kept = HashMap::with_capacity(self.kept.len());
        for entry in self.shared.registry.held() {
            let (step, failed) = match self.kept.remove(&entry.id()) {
                Some(Kept { hold, failed }) => (hold.on_wake(now), failed),
                None => {
                    let tenure = Arc::clone(&entry.tenure);
                    let (timing, origin) = (self.shared.timing, self.shared.origin);
                    (Hold::begin(now, tenure, timing, origin), None)
                }
            };
            let (hold, request) = match step {
                Step::Call(hold, request) => (hold, request),
                Step::Sleep(hold, until) => {
                    next = next.min(until);
                    kept.insert(entry.id(), Kept { hold, failed });
                    continue;
                }
                Step::Done(loss) => {
                    next = next.min(self.lost(&entry, &loss));
                    continue;
                }
            };
            let (due, owner) = match request {
                Request::Extend(owner) => (&mut extends, owner),
                Request::Check(owner) => (&mut checks, owner),
            };
            due[usize::from(failed.is_some())].push(Due {
                entry,
                hold,
                owner,
                failed,
            });
        }
        // What is left has departed.
        self.kept = kept;
        let ([extends, failed_extends], [checks, failed_checks]) = (extends, checks);
        next = next.min(self.send(Ask::Extend, extends).await);
        next = next.min(self.send(Ask::Check, checks).await);
        next = next.min(self.send_failed(Ask::Extend, failed_extends).await);
        next.min(self.send_failed(Ask::Check, failed_checks).await)
    }

    /// Sends what is due in batches, and answers when the next of it is due again.
    async fn send(&mut self, ask: Ask, due: Vec<Due>) -> Instant {
        let mut next = Instant::FAR_FUTURE;
        for batch in self.batches(due) {
            let (until, _) = self.send_batch(ask, batch).await;
            next = next.min(until);
        }
        next
    }

    /// The same of what has failed, until a batch has failed as a whole again. Who was asked longest
    /// ago is asked first, so that each has its turn. What is not asked now is due again as soon as
    /// what was.
    async fn send_failed(&mut self, ask: Ask, mut due: Vec<Due>) -> Instant {
        due.sort_by_key(|lock| lock.failed);
        let mut next = Instant::FAR_FUTURE;
        let mut batches = self.batches(due).into_iter();
        while let Some(batch) = batches.next() {
            let (until, failed) = self.send_batch(ask, batch).await;
            next = next.min(until);
            if let Err(error) = failed {
                for lock in batches.by_ref().flatten() {
                    let failed = lock.failed;
                    next = next.min(self.feed(lock, Err(error.clone()), failed));
                }
            }
        }
        next
    }

    fn batches(&self, due: Vec<Due>) -> Vec<Vec<Due>> {
        let size = self.shared.limits.batch.max(1);
        let mut due = due.into_iter().peekable();
        let mut batches = Vec::new();
        while due.peek().is_some() {
            batches.push(due.by_ref().take(size).collect());
        }
        batches
    }

    /// Sends one batch, and feeds the answers. Answers when the first of them is due again, and the
    /// error if it has failed as a whole.
    async fn send_batch(
        &mut self,
        ask: Ask,
        batch: Vec<Due>,
    ) -> (Instant, Result<(), BackendError>) {
        let owners: Vec<OwnerHash> = batch.iter().map(|lock| lock.owner.clone()).collect();
        let sent = self.shared.time.now();
        let ttl = self.shared.timing.lock_ttl;
        let request = async |store: Arc<dyn Backend>| match ask {
            Ask::Extend => store.extend(&owners, ttl).await,
            Ask::Check => store.check(&owners).await,
        };
        let answer = if batch.iter().all(|lock| lock.failed.is_some()) {
            self.link.call_again(request).await
        } else {
            self.link.call(request).await
        };
        let (answered, mut answers) = match answer {
            Ok(reply) => (Ok(()), Ok(reply.value.into_iter())),
            Err(error) => (Err(error.clone()), Err(error)),
        };
        let mut next = Instant::FAR_FUTURE;
        for lock in batch {
            // Every lock that was asked about takes its answer, so that each gets its own.
            let standing = member(&mut answers);
            let failed = standing.is_err().then_some(sent);
            next = next.min(self.feed(lock, standing, failed));
        }
        (next, answered)
    }

    /// Tells a lock its answer, and answers when it is due again.
    fn feed(
        &mut self,
        lock: Due,
        standing: Result<Standing, BackendError>,
        failed: Failed,
    ) -> Instant {
        let Due { entry, hold, .. } = lock;
        // A lock that was given back meanwhile has no standing any more.
        if entry.has_departed() {
            return Instant::FAR_FUTURE;
        }
        let now = self.shared.time.now();
        let (hold, until) = match hold.on_standing(now, standing) {
            Step::Done(loss) => return self.lost(&entry, &loss),
            Step::Sleep(hold, until) => (hold, until),
            // Due again already: in the next round, which is now, and where the machine asks once
            // more. It is kept, because it knows what has failed.
            Step::Call(hold, _) => (hold, now),
        };
        self.kept.insert(entry.id(), Kept { hold, failed });
        until
    }

    /// Tells a loss. When the former owner has had its time, what it left is deleted, even if its guard
    /// is still somewhere. Answers when to come back for that.
    fn lost(&self, entry: &Arc<Entry>, loss: &Loss) -> Instant {
        if entry.has_departed() {
            return Instant::FAR_FUTURE;
        }
        entry.announce(self.shared, loss);
        if self.shared.time.now() < loss.safe_until {
            return loss.safe_until;
        }
        if entry.let_go() {
            // Beside this loop: what is lost must not hold up the extension of what is held.
            let (shared, link) = (Arc::clone(self.shared), Arc::clone(self.link));
            let (turns, entry) = (Arc::clone(self.turns), Arc::clone(entry));
            tokio::spawn(async move { departures::let_go(&shared, &link, &turns, &entry).await });
        }
        Instant::FAR_FUTURE
    }
}

/// The answer for the next lock of a batch.
fn member(
    answers: &mut Result<impl Iterator<Item = Result<Standing, BackendError>>, BackendError>,
) -> Result<Standing, BackendError> {
    match answers {
        Ok(answers) => answers.next().unwrap_or_else(|| {
            let text = "the store's answer is shorter than the request";
            Err(BackendError::new(ErrorKind::Corrupt, Effect::Unknown, text))
        }),
        Err(error) => Err(error.clone()),
    }
}
