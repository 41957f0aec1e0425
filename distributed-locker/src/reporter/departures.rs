//! The loop that finishes what callers could not: releases that were not confirmed, and attempts of
//! unknown outcome.

use super::troubles::{Asked, Troubles};
use crate::link::{Link, Silence};
use crate::registry::{Departure, Entry};
use crate::shared::Shared;
use locker_core::backend::{Answer, Settlement};
use locker_core::machine::Step;
use locker_core::machine::release::{Release, ReleaseStep, Request};
use locker_core::{Backend, BackendError, Instant, OwnerHash};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How many releases ask the store at a time. The others wait for their turn.
const AT_A_TIME: usize = 32;
/// For which part of a request's time one has its turn. Whoever is not answered by then waits on
/// without: a part of the store that is silent must not keep the others waiting. What departs into a
/// silence that is new (since the last check) does so all the same, and with the default times 170 of
/// them a second have their first turn.
const TURN: u32 = 8;

/// What releases share, and upkeep with them.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Arc<Link>,
    pub(super) troubles: Troubles,
    turns: Turns,
}

impl Desk {
    pub(super) fn new(shared: &Arc<Shared>, link: &Arc<Link>) -> Self {
        Self {
            shared: Arc::clone(shared),
            link: Arc::clone(link),
            troubles: Troubles::default(),
            turns: Turns::new(),
        }
    }
}

/// Who asks the store in turn, so that it is not asked everything at once.
#[derive(Debug)]
struct Turns {
    heard: Semaphore,
    /// For those of whom nothing was heard the last time that the store was asked, be it to extend,
    /// to check or to release. They may be many, and stay unheard for as long as a part of the store
    /// is silent.
    unheard: Semaphore,
}

impl Turns {
    fn new() -> Self {
        Self {
            heard: Semaphore::new(AT_A_TIME),
            unheard: Semaphore::new(AT_A_TIME),
        }
    }
}

/// One release, over all its requests.
struct Releasing<'a> {
    desk: &'a Desk,
    since: Instant,
    /// Whether nothing was heard when the store was asked the last time.
    is_unheard: bool,
}

/// Sees every departure to its end, for ever.
pub(super) async fn run(desk: &Arc<Desk>) -> Infallible {
    loop {
        for departure in desk.shared.registry.take_departures() {
            let desk = Arc::clone(desk);
            tokio::spawn(async move { see_off(&desk, departure).await });
        }
        desk.shared.bells.departures.notified().await;
    }
}

async fn see_off(desk: &Desk, mut departure: Departure) {
    let shared = &desk.shared;
    let mut releasing = Releasing::new(desk, departure.is_unheard);
    let mut step = match departure.begun.take() {
        // What its caller has learned counts.
        Some(machine) => machine.on_wake(shared.time.now()),
        None => {
            let owner = departure.owner().clone();
            let (gone_by, unsettled) = (departure.gone_by, departure.unsettled);
            let (machine, request) = Release::begin(owner, shared.timing, gone_by, unsettled);
            Step::Call(machine, request)
        }
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
            Step::Call(machine, request) => releasing.call(machine, request).await,
        };
        // What became of the lock is known as soon as the store has first answered; what may still
        // land is settled without keeping anybody waiting.
        if let Step::Sleep(machine, _) | Step::Call(machine, _) = &step
            && let Some(word) = machine.word()
        {
            departure.tell(word);
            if let Some(reply) = departure.reply.take() {
                let _ = reply.send(word.clone());
            }
        }
    };
    let word = end.into_word();
    departure.tell(&word);
    if let Some(reply) = departure.reply.take() {
        let _ = reply.send(word);
    }
    departure.finish();
}

/// Deletes what a lost lock has left at the store while its guard is still there: its job hangs,
/// and nobody else would do it. When the guard goes, its own departure takes over.
pub(super) async fn let_go(desk: &Desk, entry: &Entry) {
    let shared = &desk.shared;
    let mut releasing = Releasing::new(desk, entry.is_unheard());
    let gone_by = shared.runs_out_by(shared.time.now());
    let (machine, request) = Release::begin(entry.owner().clone(), shared.timing, gone_by, None);
    let mut step = Step::Call(machine, request);
    while !entry.has_departed() {
        step = match step {
            Step::Done(_) => return,
            Step::Sleep(machine, until) => {
                shared.time.sleep_until(until).await;
                machine.on_wake(shared.time.now())
            }
            Step::Call(machine, request) => releasing.call(machine, request).await,
        };
    }
}

impl<'a> Releasing<'a> {
    fn new(desk: &'a Desk, is_unheard: bool) -> Self {
        Self {
            desk,
            since: desk.shared.time.now(),
            is_unheard,
        }
    }

    /// Asks in turn.
    async fn call(&mut self, machine: Release, request: Request) -> ReleaseStep {
        let time = &self.desk.shared.time;
        match request {
            Request::Release(owner) => {
                let release = async |store: Arc<dyn Backend>| store.release(&owner).await;
                let answer = self.ask(release).await;
                if let Err(error) = &answer {
                    self.note(Asked::Release, &owner, Some(error));
                }
                machine.on_released(time.now(), answer)
            }
            Request::Settle(owner, not_after) => {
                let settle = async |store: Arc<dyn Backend>| store.settle(&owner, not_after).await;
                let answer = self.ask(settle).await;
                match &answer {
                    Err(error) => self.note(Asked::Settle, &owner, Some(error)),
                    Ok(reply) => {
                        let open = matches!(reply.value, Settlement::Open(_));
                        if open && self.is_overdue() {
                            self.note(Asked::Settle, &owner, None);
                        }
                    }
                }
                machine.on_settled(time.now(), answer)
            }
        }
    }

    fn note(&self, asked: Asked, owner: &OwnerHash, error: Option<&BackendError>) {
        let Desk {
            shared, troubles, ..
        } = self.desk;
        troubles.note(shared, asked, [owner.clone()], error);
    }

    /// Whether what may still land should have ended long ago, and would have been seen to.
    fn is_overdue(&self) -> bool {
        let timing = &self.desk.shared.timing;
        let took = self.desk.shared.time.now().since(self.since);
        took > timing.not_after_patience() + timing.recheck_every * 2
    }

    async fn ask<T, F>(&mut self, request: impl FnOnce(Arc<dyn Backend>) -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>>,
    {
        let shared = &self.desk.shared;
        let turns = if self.is_unheard {
            &self.desk.turns.unheard
        } else {
            &self.desk.turns.heard
        };
        // The semaphore is never closed.
        let turn = turns.acquire().await;
        let sent = shared.time.now();
        // Most of what departs has not been answered to its caller, and none of it has to get through
        // at the next try, as an extend has.
        let mut answering = pin!(self.desk.link.send(request, Silence::IsKnown));
        let limit = shared.timing.request_timeout / TURN;
        let answer = match shared.time.timeout(limit, &mut answering).await {
            Some(answer) => answer,
            None => {
                drop(turn);
                answering.await
            }
        };
        // Whoever was refused, or had no connection, may well be heard the next time.
        self.is_unheard = answer.as_ref().is_err_and(BackendError::is_unanswered);
        if let Ok(reply) = &answer {
            shared.heard(sent, reply);
        }
        answer
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
