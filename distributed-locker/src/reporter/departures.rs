//! The loop that finishes what callers could not: releases that were not confirmed, and attempts of
//! unknown outcome.

use crate::link::{Link, Silence};
use crate::registry::{Departure, Entry};
use crate::shared::Shared;
use locker_core::backend::Answer;
use locker_core::machine::release::{Release, ReleaseStep, Request};
use locker_core::machine::{Step, release};
use locker_core::{Backend, BackendError};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How many releases ask the store at a time. The others wait for their turn.
const AT_A_TIME: usize = 32;
/// For which part of a request's time one has its turn. Whoever is not answered by then waits on
/// without: a part of the store that is silent must not keep the others waiting.
const TURN: u32 = 8;

/// Who asks the store in turn, so that it is not asked everything at once.
#[derive(Debug)]
pub(super) struct Turns {
    heard: Semaphore,
    /// For those of whom nothing was heard the last time that the store was asked, be it to extend,
    /// to check or to release. They may be many, and stay unheard for as long as a part of the store
    /// is silent.
    unheard: Semaphore,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            heard: Semaphore::new(AT_A_TIME),
            unheard: Semaphore::new(AT_A_TIME),
        }
    }
}

/// Sees every departure to its end, for ever.
pub(super) async fn run(shared: &Arc<Shared>, link: &Arc<Link>, turns: &Arc<Turns>) {
    loop {
        for departure in shared.registry.take_departures() {
            let shared = Arc::clone(shared);
            let link = Arc::clone(link);
            let turns = Arc::clone(turns);
            tokio::spawn(async move { see_off(&shared, &link, &turns, departure).await });
        }
        shared.bells.departures.notified().await;
    }
}

async fn see_off(shared: &Shared, link: &Link, turns: &Turns, mut departure: Departure) {
    let owner = departure.owner().clone();
    let mut step = match departure.begun.take() {
        // What its caller has learned counts.
        Some(machine) => machine.on_wake(shared.time.now()),
        None => {
            let (gone_by, unsettled) = (departure.gone_by, departure.unsettled);
            let (machine, request) = Release::begin(owner, shared.timing, gone_by, unsettled);
            Step::Call(machine, request)
        }
    };
    let mut ended_at = None;
    let mut is_unheard = departure.is_unheard;
    let end = loop {
        step = match step {
            Step::Done(end) => break end,
            Step::Sleep(machine, until) => {
                let now = shared.time.now();
                if departure.has_ended(now) {
                    let ended_at = *ended_at.get_or_insert(now);
                    // Whatever is left there belongs to a process whose record has run out as well:
                    // it blocks nobody. A store that never answers again keeps nothing alive here.
                    if now.since(ended_at) > 2 * shared.timing.liveness_ttl {
                        return departure.finish();
                    }
                }
                shared.time.sleep_until(until).await;
                machine.on_wake(shared.time.now())
            }
            Step::Call(machine, request) => {
                call(shared, link, turns, machine, request, &mut is_unheard).await
            }
        };
        // What became of the lock is known as soon as the store has first answered; what may still
        // land is settled without keeping anybody waiting.
        if let Step::Sleep(machine, _) | Step::Call(machine, _) = &step
            && let Some(word) = machine.word()
            && let Some(reply) = departure.reply.take()
        {
            let _ = reply.send(word.clone());
        }
    };
    if let Some(reply) = departure.reply.take() {
        let _ = reply.send(end.into_word());
    }
    departure.finish();
}

/// Deletes what a lost lock has left at the store while its guard is still there: its job hangs,
/// and nobody else would do it. When the guard goes, its own departure takes over.
pub(super) async fn let_go(shared: &Shared, link: &Link, turns: &Turns, entry: &Entry) {
    let gone_by = shared.runs_out_by(shared.time.now());
    let (machine, request) = Release::begin(entry.owner().clone(), shared.timing, gone_by, None);
    let mut step = Step::Call(machine, request);
    let mut is_unheard = entry.is_unheard();
    while !entry.has_departed() {
        step = match step {
            Step::Done(_) => return,
            Step::Sleep(machine, until) => {
                shared.time.sleep_until(until).await;
                machine.on_wake(shared.time.now())
            }
            Step::Call(machine, request) => {
                call(shared, link, turns, machine, request, &mut is_unheard).await
            }
        };
    }
}

/// Asks in turn. `is_unheard` says whether nothing was heard when the store was asked the last time.
async fn call(
    shared: &Shared,
    link: &Link,
    turns: &Turns,
    machine: Release,
    request: release::Request,
    is_unheard: &mut bool,
) -> ReleaseStep {
    match request {
        Request::Release(owner) => {
            let release = async |store: Arc<dyn Backend>| store.release(&owner).await;
            let answer = ask(shared, link, turns, release, is_unheard).await;
            machine.on_released(shared.time.now(), answer)
        }
        Request::Settle(owner, not_after) => {
            let settle = async |store: Arc<dyn Backend>| store.settle(&owner, not_after).await;
            let answer = ask(shared, link, turns, settle, is_unheard).await;
            machine.on_settled(shared.time.now(), answer)
        }
    }
}

async fn ask<T, F>(
    shared: &Shared,
    link: &Link,
    turns: &Turns,
    request: impl FnOnce(Arc<dyn Backend>) -> F,
    is_unheard: &mut bool,
) -> Answer<T>
where
    F: Future<Output = Answer<T>>,
{
    let turns = if *is_unheard {
        &turns.unheard
    } else {
        &turns.heard
    };
    // The semaphore is never closed.
    let turn = turns.acquire().await;
    // Most of what departs has not been answered to its caller, and none of it has to get through at
    // the next try, as an extend has.
    let mut answering = pin!(link.send(request, Silence::IsKnown));
    let limit = shared.timing.request_timeout / TURN;
    let answer = match shared.time.timeout(limit, &mut answering).await {
        Some(answer) => answer,
        None => {
            drop(turn);
            answering.await
        }
    };
    // Whoever was refused, or had no connection, may well be heard the next time.
    *is_unheard = answer.as_ref().is_err_and(BackendError::is_unanswered);
    if let Ok(reply) = &answer {
        shared.heard(reply);
    }
    answer
}

#[cfg(test)]
mod tests {
    use crate::{AcquireOptions, Locker, memory};
    use std::sync::Arc;

    /// L8: a guard that outlives the Reporter keeps nothing alive.
    #[tokio::test]
    async fn what_departs_after_the_reporter_has_ended_is_forgotten() {
        let locker = Locker::builder(memory()).start().await.unwrap();
        let guard = locker.acquire("k", AcquireOptions::new()).await;
        let guard = guard.unwrap().guard().unwrap();
        let shared = Arc::clone(locker.shared());
        shared.registry.close();
        drop(guard);
        assert!(shared.registry.is_empty());
        locker.terminate(shared.timing.start_timeout).await.unwrap();
        drop(locker);
        // The thread of the Reporter drops its share a moment after it has said so.
        for _ in 0..1000 {
            if Arc::strong_count(&shared) == 1 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("{} shares are left", Arc::strong_count(&shared));
    }
}
