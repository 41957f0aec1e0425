//! The loop that extends and checks the held locks.
//!
//! The hold machines put their requests on a common grid, so whatever is due is due together: the
//! loop gathers it, and sends it in batches of the store's size (L7).
//!
//! What has failed is asked about again apart from the others, and after them: a part of the store
//! that is silent must not keep the others' locks from being extended, and when nothing but it is
//! asked, its silence is seen for what it is. Of the others one batch is asked in vain in a round, and
//! of what has failed another one: silence costs a round a request timeout or two, however many locks
//! there are.
//!
//! What was not asked for that reason has its turn in the next rounds, by its place in *one* line for
//! extensions and checks. Had each kind a line of its own, and extensions always the first word, then a
//! check would be due just when the extension of a silent lock is: that lock is extended and checked in
//! vain by turns, a request timeout each. First in the line is who has failed only once: a sound lock
//! fails when a socket breaks or an opening takes long, and must not wait for thousands that are silent.
//! Among equals it is who was asked longest ago.

use super::departures::{self, Desk};
use super::troubles::Asked;
use crate::link::Silence;
use crate::registry::Entry;
use crate::shared::Shared;
use crate::time::Alarm;
use locker_core::backend::Standing;
use locker_core::machine::hold::{Hold, Request};
use locker_core::machine::{Loss, Step};
use locker_core::{Backend, BackendError, Effect, ErrorKind, Instant, OwnerHash};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

/// Keeps the held locks, for ever.
pub(super) async fn run(desk: &Arc<Desk>, mut alarm: Alarm) -> Infallible {
    let mut upkeep = Upkeep {
        desk,
        shared: &desk.shared,
        kept: HashMap::new(),
    };
    loop {
        let next = upkeep.round().await;
        alarm.ring(next).await;
    }
}

struct Upkeep<'a> {
    desk: &'a Arc<Desk>,
    shared: &'a Shared,
    /// By the numbers of their entries.
    kept: HashMap<u64, Kept>,
}

/// A held lock between two requests.
struct Kept {
    hold: Hold,
    failed: Failed,
}

/// Whether the last requests about a lock have failed, and when the last of them was sent. Their order is
/// that in which they are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Failed {
    No,
    Once(Instant),
    Again(Instant),
}

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

/// What is due of each kind.
#[derive(Default)]
struct Round {
    extends: Vec<Due>,
    checks: Vec<Due>,
}

impl Upkeep<'_> {
    /// Asks the store about everything that is due, and answers when the next round is.
    async fn round(&mut self) -> Instant {
        let now = self.shared.time.now();
        let (mut first, mut again) = (Round::default(), Round::default());
        // The grid has a point at every recheck, so a lock that is acquired meanwhile is in time.
        let mut next = now + self.shared.timing.recheck_every;
        let mut kept = HashMap::with_capacity(self.kept.len());
        for entry in self.shared.registry.held() {
            let (step, failed) = match self.kept.remove(&entry.id()) {
                Some(Kept { hold, failed }) => (hold.on_wake(now), failed),
                None => {
                    let tenure = Arc::clone(&entry.tenure);
                    let (timing, origin) = (self.shared.timing, self.shared.origin);
                    (Hold::begin(now, tenure, timing, origin), Failed::No)
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
            let round = match failed {
                Failed::No => &mut first,
                Failed::Once(_) | Failed::Again(_) => &mut again,
            };
            let (due, owner) = match request {
                Request::Extend(owner) => (&mut round.extends, owner),
                Request::Check(owner) => (&mut round.checks, owner),
            };
            due.push(Due {
                entry,
                hold,
                owner,
                failed,
            });
        }
        // What is left has departed.
        self.kept = kept;
        // What the others have not heard says nothing of what has failed, and it has waited for them.
        for round in [first, again] {
            next = next.min(self.send(round).await);
        }
        next
    }

    /// Sends what is due in batches, in the order of its line, until one has failed as a whole. Answers
    /// when the next of it is due again. What is not asked has failed with that batch, but keeps its
    /// place: it is due again as soon as what was asked, and comes before it.
    async fn send(&mut self, round: Round) -> Instant {
        let of = |ask, due| self.batches(due).into_iter().map(move |batch| (ask, batch));
        let extends = of(Ask::Extend, round.extends);
        let mut line: Vec<_> = extends.chain(of(Ask::Check, round.checks)).collect();
        // Each begins with its first. Where nothing has failed, extensions are sent before checks.
        line.sort_by_key(|(_, batch)| batch.first().map(|lock| lock.failed));
        let mut next = Instant::FAR_FUTURE;
        let mut heard: Result<(), BackendError> = Ok(());
        for (ask, batch) in line {
            if let Err(error) = &heard {
                for lock in batch {
                    let failed = lock.failed.max(Failed::Once(Instant::ZERO));
                    next = next.min(self.feed(lock, Err(error.clone()), failed));
                }
                continue;
            }
            let until;
            (until, heard) = self.send_batch(ask, batch).await;
            next = next.min(until);
        }
        next
    }

    fn batches(&self, mut due: Vec<Due>) -> Vec<Vec<Due>> {
        due.sort_by_key(|lock| lock.failed);
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
        let silence = if batch.iter().any(|lock| lock.failed == Failed::No) {
            Silence::IsNews
        } else {
            Silence::IsKnown
        };
        let answer = self.desk.link.send(request, silence).await;
        let (answered, mut answers) = match answer {
            Ok(reply) => (Ok(()), Ok(reply.value.into_iter())),
            Err(error) => (Err(error.clone()), Err(error)),
        };
        let mut next = Instant::FAR_FUTURE;
        let mut in_vain = Vec::new();
        for lock in batch {
            // Every lock that was asked about takes its answer, so that each gets its own.
            let standing = member(&mut answers);
            let is_unheard = standing.as_ref().is_err_and(BackendError::is_unanswered);
            lock.entry.was_asked(is_unheard);
            let failed = match (&standing, lock.failed) {
                (Ok(_), _) => Failed::No,
                (Err(_), Failed::No) => Failed::Once(sent),
                (Err(_), Failed::Once(_) | Failed::Again(_)) => Failed::Again(sent),
            };
            if let Err(error) = &standing
                && !lock.entry.has_departed()
            {
                in_vain.push((lock.owner.clone(), error.clone()));
            }
            next = next.min(self.feed(lock, standing, failed));
        }
        self.tell(ask, in_vain);
        (next, answered)
    }

    /// Tells what was asked in vain, each kind of failure with all its locks.
    fn tell(&self, ask: Ask, mut in_vain: Vec<(OwnerHash, BackendError)>) {
        let asked = match ask {
            Ask::Extend => Asked::Extend,
            Ask::Check => Asked::Check,
        };
        while let Some((_, error)) = in_vain.last().cloned() {
            let same = |(_, other): &mut (OwnerHash, BackendError)| other.kind() == error.kind();
            let owners = in_vain.extract_if(.., same).map(|(owner, _)| owner);
            let Desk {
                shared, troubles, ..
            } = &**self.desk;
            troubles.note(shared, asked, owners, Some(&error));
        }
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
            let (desk, entry) = (Arc::clone(self.desk), Arc::clone(entry));
            tokio::spawn(async move { departures::let_go(&desk, &entry).await });
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
