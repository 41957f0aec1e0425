//! The loop that extends and checks the held locks.
//!
//! The hold machines put their requests on a common grid, so whatever is due is due together: the
//! loop gathers it, and sends it in batches of the store's size (L7).
//!
//! What has failed is asked about again apart from the others, and after them: a part of the store
//! that is silent must not keep the others' locks from being extended, and when nothing but it is
//! asked, its silence is seen for what it is.

use super::departures;
use crate::link::Link;
use crate::registry::Entry;
use crate::shared::Shared;
use crate::time::Alarm;
use locker_core::backend::Standing;
use locker_core::machine::hold::{Hold, Request};
use locker_core::machine::{Loss, Step};
use locker_core::{BackendError, Effect, ErrorKind, Instant, OwnerHash};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Keeps the held locks, for ever.
pub(super) async fn run(shared: &Arc<Shared>, link: &Arc<Link>, turns: &Arc<Semaphore>) {
    let Ok(mut alarm) = Alarm::new(&shared.time) else {
        return;
    };
    let mut holds = Holds::new();
    loop {
        let next = round(shared, link, turns, &mut holds).await;
        alarm.ring(next).await;
    }
}

/// The held locks, by the numbers of their entries.
type Holds = HashMap<u64, Kept>;

/// A held lock between two requests.
struct Kept {
    hold: Hold,
    /// Whether the last request about it has failed.
    has_failed: bool,
}

/// What one kind of request is to be sent for.
#[derive(Default)]
struct Due {
    holds: Vec<(Arc<Entry>, Hold)>,
    owners: Vec<OwnerHash>,
}

impl Due {
    fn push(&mut self, entry: Arc<Entry>, hold: Hold, owner: OwnerHash) {
        self.holds.push((entry, hold));
        self.owners.push(owner);
    }
}

/// Asks the store about everything that is due, and answers when the next round is.
async fn round(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    turns: &Arc<Semaphore>,
    holds: &mut Holds,
) -> Instant {
    let now = shared.time.now();
    // Each without what has failed, and then that.
    let mut extends = [Due::default(), Due::default()];
    let mut checks = [Due::default(), Due::default()];
    // The grid has a point at every recheck, so a lock that is acquired meanwhile is in time.
    let mut next = now + shared.timing.recheck_every;
    let mut kept = HashMap::with_capacity(holds.len());
    for entry in shared.registry.held() {
        let (step, has_failed) = match holds.remove(&entry.id()) {
            Some(Kept { hold, has_failed }) => (hold.on_wake(now), has_failed),
            None => {
                let tenure = Arc::clone(&entry.tenure);
                (
                    Hold::begin(now, tenure, shared.timing, shared.origin),
                    false,
                )
            }
        };
        let part = usize::from(has_failed);
        match step {
            Step::Call(hold, Request::Extend(owner)) => extends[part].push(entry, hold, owner),
            Step::Call(hold, Request::Check(owner)) => checks[part].push(entry, hold, owner),
            Step::Sleep(hold, until) => {
                next = next.min(until);
                kept.insert(entry.id(), Kept { hold, has_failed });
            }
            Step::Done(loss) => next = next.min(lost(shared, link, turns, &entry, &loss)),
        }
    }
    // What is left has departed.
    *holds = kept;
    let ([extends, failed_extends], [checks, failed_checks]) = (extends, checks);
    for (due, extend) in [
        (extends, true),
        (checks, false),
        (failed_extends, true),
        (failed_checks, false),
    ] {
        next = next.min(send(shared, link, turns, due, extend, holds).await);
    }
    next
}

/// Sends what is due in batches, and feeds the answers. Answers when the next of these is due.
async fn send(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    turns: &Arc<Semaphore>,
    due: Due,
    extend: bool,
    holds: &mut Holds,
) -> Instant {
    let mut next = Instant::FAR_FUTURE;
    let ttl = shared.timing.lock_ttl;
    let mut waiting = due.holds.into_iter();
    for owners in due.owners.chunks(shared.limits.batch.max(1)) {
        let answer = if extend {
            link.call(async |store| store.extend(owners, ttl).await)
                .await
        } else {
            link.call(async |store| store.check(owners).await).await
        };
        let mut answers = match answer {
            Ok(reply) => Ok(reply.value.into_iter()),
            Err(error) => Err(error),
        };
        for (entry, hold) in waiting.by_ref().take(owners.len()) {
            // Every lock that was asked about takes its answer, so that each gets its own.
            let standing = member(&mut answers);
            // A lock that was given back meanwhile has no standing any more.
            if entry.has_departed() {
                continue;
            }
            let has_failed = standing.is_err();
            let (hold, until) = match hold.on_standing(shared.time.now(), standing) {
                Step::Done(loss) => {
                    next = next.min(lost(shared, link, turns, &entry, &loss));
                    continue;
                }
                Step::Sleep(hold, until) => (hold, until),
                // Due again already: in the next round, which is now, and where the machine asks
                // once more. It is kept, because it knows what has failed.
                Step::Call(hold, _) => (hold, shared.time.now()),
            };
            next = next.min(until);
            holds.insert(entry.id(), Kept { hold, has_failed });
        }
    }
    next
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

/// Tells a loss. When the former owner has had its time, what it left is deleted, even if its guard
/// is still somewhere. Answers when to come back for that.
fn lost(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    turns: &Arc<Semaphore>,
    entry: &Arc<Entry>,
    loss: &Loss,
) -> Instant {
    if entry.has_departed() {
        return Instant::FAR_FUTURE;
    }
    entry.announce(shared, loss);
    if shared.time.now() < loss.safe_until {
        return loss.safe_until;
    }
    if entry.let_go() {
        // Beside this loop: what is lost must not hold up the extension of what is held.
        let (shared, link) = (Arc::clone(shared), Arc::clone(link));
        let (turns, entry) = (Arc::clone(turns), Arc::clone(entry));
        tokio::spawn(async move { departures::let_go(&shared, &link, &turns, &entry).await });
    }
    Instant::FAR_FUTURE
}
