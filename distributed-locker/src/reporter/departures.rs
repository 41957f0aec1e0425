//! The loop that finishes what callers could not: releases that were not confirmed, and attempts of
//! unknown outcome.

use crate::link::Link;
use crate::registry::{Departure, Entry};
use crate::shared::Shared;
use locker_core::machine::release::{Release, ReleaseStep, Request};
use locker_core::machine::{Step, release};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How many releases ask the store at a time. The others wait for their turn.
pub(super) const AT_A_TIME: usize = 32;

/// Sees every departure to its end, for ever.
pub(super) async fn run(shared: &Arc<Shared>, link: &Arc<Link>, turns: &Arc<Semaphore>) {
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

async fn see_off(shared: &Shared, link: &Link, turns: &Semaphore, mut departure: Departure) {
    let Some(owner) = departure.owner().cloned() else {
        return;
    };
    let mut step = match departure.begun.take() {
        // What its caller has learned counts.
        Some(machine) => machine.on_wake(shared.time.now()),
        None => Release::begin(owner, shared.timing, departure.gone_by, departure.unsettled),
    };
    let mut ended_at = None;
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
                // The semaphore is never closed.
                let _turn = turns.acquire().await;
                call(shared, link, machine, request).await
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
pub(super) async fn let_go(shared: &Shared, link: &Link, turns: &Semaphore, entry: &Entry) {
    let gone_by = shared.runs_out_by(shared.time.now());
    let mut step = Release::begin(entry.owner().clone(), shared.timing, gone_by, None);
    while !entry.has_departed() {
        step = match step {
            Step::Done(_) => return,
            Step::Sleep(machine, until) => {
                shared.time.sleep_until(until).await;
                machine.on_wake(shared.time.now())
            }
            Step::Call(machine, request) => {
                let _turn = turns.acquire().await;
                call(shared, link, machine, request).await
            }
        };
    }
}

async fn call(
    shared: &Shared,
    link: &Link,
    machine: Release,
    request: release::Request,
) -> ReleaseStep {
    match request {
        Request::Release(owner) => {
            let answer = link.call(async |store| store.release(&owner).await).await;
            if let Ok(reply) = &answer {
                shared.heard(reply);
            }
            machine.on_released(shared.time.now(), answer)
        }
        Request::Settle(owner, not_after) => {
            let answer = link
                .call(async |store| store.settle(&owner, not_after).await)
                .await;
            if let Ok(reply) = &answer {
                shared.heard(reply);
            }
            machine.on_settled(shared.time.now(), answer)
        }
    }
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
