//! The acquisition, as the driver runs it on the caller's runtime.

use super::super::agenda::Part;
use super::super::env::Env;
use super::super::fault::Fault;
use super::super::invariants::{Fact, HandRef};
use super::super::mark::Mark;
use super::super::op::{Answer, Op, Subscription, Ticket, Value, told};
use super::Process;
use super::hand::{Asking, Hand, Held, Life, Stage, Watching};
use super::task::Wish;
use locker_core::backend::{Claimed, Hint, Liveness, Reply};
use locker_core::machine::acquire::{AcquireStep, End, Outcome, Patience, Request};
use locker_core::machine::{Acquire, Step, Tenure};
use locker_core::{Instant, OwnerHash, StoreTime, Token};
use std::sync::Arc;
use std::time::Duration;

impl Process {
    /// Begins to ask for a lock under a new owner hash, on the ground of this incarnation.
    pub(super) fn ask(
        &mut self,
        env: &mut Env,
        task: usize,
        wish: Wish,
        life: Arc<Life>,
        life_by: Instant,
    ) -> u32 {
        let now = self.now(env);
        let id = self.next_hand;
        self.next_hand += 1;
        let owner = OwnerHash::new(&env.keys[wish.key], &life.process, u64::from(id), None);
        let patience = Patience {
            wait_until: wish.wait_until,
            ask_until: now + self.timing.request_timeout * 2 + self.timing.retry_after,
            poll_every: Duration::from_millis(500),
            cheap_death_poll: env.plan.cheap_death_poll,
        };
        let hand = Hand {
            owner: owner.clone(),
            life,
            task,
            in_flight: None,
            due: None,
            stage: Stage::Asking(Asking {
                machine: None,
                open: None,
                watching: Watching::No,
                life_by,
                hinted: false,
                hint: None,
                refused: false,
            }),
        };
        self.hands.insert(id, hand);
        env.facts.push(Fact::Asked {
            owner: owner.clone(),
        });
        let (timing, clock, seed) = (self.timing, self.store_clock, env.rng.bits());
        let step = Acquire::begin(now, owner, timing, patience, clock, seed);
        self.acquire_step(env, id, step);
        id
    }

    fn asking(&mut self, id: u32) -> Option<(&mut Hand, Acquire)> {
        let hand = self.hands.get_mut(&id)?;
        let Stage::Asking(asking) = &mut hand.stage else {
            return None;
        };
        let machine = asking.machine.take()?;
        Some((hand, machine))
    }

    pub(super) fn on_claim_answer(
        &mut self,
        env: &mut Env,
        id: u32,
        ticket: Ticket,
        answer: Answer,
    ) {
        let now = self.now(env);
        let Some((hand, machine)) = self.asking(id) else {
            return;
        };
        if let (Stage::Asking(asking), Op::TakeOver(..)) =
            (&mut hand.stage, &env.flights[ticket.0].op)
        {
            asking.refused = matches!(
                &answer,
                Ok(Reply {
                    value: Value::Claimed(Claimed::Held(_)),
                    ..
                })
            );
        }
        let step = match &env.flights[ticket.0].op {
            Op::TryCreate(_) | Op::TakeOver(..) => machine.on_claimed(now, told(answer)),
            Op::ReadProcess(_) => machine.on_liveness(now, told(answer)),
            Op::ReadLock(_) => machine.on_lock(now, told(answer)),
            _ => {
                // The answer to the subscription. A release may have happened between the try and
                // the subscription; without hints a waiter polls.
                let Stage::Asking(asking) = &mut hand.stage else {
                    return;
                };
                match answer {
                    Ok(_) => {
                        asking.watching = Watching::Yes;
                        machine.on_hint(now, Hint::Rebuilt)
                    }
                    Err(_) => {
                        asking.watching = Watching::No;
                        let until = hand.due.unwrap_or(now);
                        return self.sleep(env, id, machine, until);
                    }
                }
            }
        };
        self.acquire_step(env, id, step);
    }

    pub(super) fn on_hint(&mut self, env: &mut Env, id: u32, hint: Hint) {
        let now = self.now(env);
        let Some(hand) = self.hands.get_mut(&id) else {
            return;
        };
        let Stage::Asking(asking) = &mut hand.stage else {
            return;
        };
        env.note(self.index, format_args!("Hand({id}) hears {hint:?}"));
        if hand.in_flight.is_some() || !asking.machine.as_ref().is_some_and(Acquire::is_waiting) {
            // A stream keeps the newest until it is asked for.
            asking.hint = Some(hint);
            return;
        }
        asking.hinted = true;
        if matches!(hint, Hint::Free { place: 1.. }) {
            env.log.mark(Mark::Turn);
        }
        if let Some(machine) = asking.machine.take() {
            hand.due = None;
            let step = machine.on_hint(now, hint);
            self.acquire_step(env, id, step);
        }
    }

    /// An alarm of an acquisition, or of a release.
    pub(super) fn wake_hand(&mut self, env: &mut Env, id: u32) {
        let now = self.now(env);
        let Some(hand) = self.hands.get_mut(&id) else {
            return;
        };
        if hand.in_flight.is_some() || hand.due.is_none_or(|due| now < due) {
            return;
        }
        hand.due = None;
        match &mut hand.stage {
            Stage::Asking(asking) => {
                if let Some(machine) = asking.machine.take() {
                    let step = machine.on_wake(now);
                    self.acquire_step(env, id, step);
                }
            }
            Stage::Leaving(_) => self.wake_release(env, id),
            Stage::Held(_) => {}
        }
    }

    fn acquire_step(&mut self, env: &mut Env, id: u32, step: AcquireStep) {
        match step {
            Step::Call(machine, request) => {
                let op = match request {
                    Request::TryCreate(claim) => Op::TryCreate(claim),
                    Request::TakeOver(claim, observed) => Op::TakeOver(claim, observed),
                    Request::ReadProcess(process) => Op::ReadProcess(process),
                    Request::ReadLock(key) => Op::ReadLock(key),
                };
                if let Some(hand) = self.hands.get_mut(&id)
                    && let Stage::Asking(asking) = &mut hand.stage
                {
                    // Known before the first byte.
                    if let Op::TryCreate(claim) | Op::TakeOver(claim, _) = &op {
                        asking.open = asking.open.max(Some(claim.not_after));
                    }
                    asking.machine = Some(machine);
                    hand.due = None;
                }
                let ticket = self.send(env, Part::Hand(id), op);
                if let Some(hand) = self.hands.get_mut(&id) {
                    hand.in_flight = Some(ticket);
                }
            }
            Step::Sleep(machine, until) => {
                let Some(hand) = self.hands.get_mut(&id) else {
                    return;
                };
                let Stage::Asking(asking) = &mut hand.stage else {
                    return;
                };
                if machine.is_waiting() && self.draining {
                    asking.machine = Some(machine);
                    let task = hand.task;
                    self.give_up_asking(env, id, "drained");
                    return self.refused(env, task);
                }
                if machine.is_waiting() && asking.watching == Watching::No {
                    asking.watching = Watching::Asked;
                    asking.machine = Some(machine);
                    hand.due = Some(until);
                    let watch = Op::Watch(
                        hand.owner.key().clone(),
                        hand.owner.process().clone(),
                        self.subscription(id),
                    );
                    let ticket = self.send(env, Part::Hand(id), watch);
                    if let Some(hand) = self.hands.get_mut(&id) {
                        hand.in_flight = Some(ticket);
                    }
                    return;
                }
                self.sleep(env, id, machine, until);
            }
            Step::Done(end) => self.acquire_end(env, id, &end),
        }
    }

    fn sleep(&mut self, env: &mut Env, id: u32, machine: Acquire, until: Instant) {
        if let Some(hand) = self.hands.get_mut(&id)
            && let Stage::Asking(asking) = &mut hand.stage
        {
            let waiting = machine.is_waiting();
            asking.machine = Some(machine);
            hand.due = Some(until);
            if waiting && let Some(hint) = asking.hint.take() {
                return self.on_hint(env, id, hint);
            }
            self.wake_at(env, Part::Hand(id), until);
        }
    }

    fn subscription(&self, hand: u32) -> Subscription {
        Subscription {
            process: self.index,
            boot: self.boot,
            hand,
        }
    }

    fn unwatch(&mut self, env: &mut Env, id: u32) {
        let watching = match self.hands.get(&id).map(|hand| &hand.stage) {
            Some(Stage::Asking(asking)) => asking.watching != Watching::No,
            _ => false,
        };
        if watching {
            let unwatch = Op::Unwatch(self.subscription(id));
            self.send(env, Part::LetGo, unwatch);
        }
    }

    fn acquire_end(&mut self, env: &mut Env, id: u32, end: &End) {
        self.unwatch(env, id);
        let Some(hand) = self.hands.get_mut(&id) else {
            return;
        };
        let Stage::Asking(asking) = &mut hand.stage else {
            return;
        };
        let (task, life_by) = (hand.task, asking.life_by);
        let unsettled = end.unsettled;
        match &end.outcome {
            Outcome::Granted { token, sent } => self.granted(env, id, *token, *sent, unsettled),
            Outcome::Held(_) | Outcome::Failed(_) => {
                if let Outcome::Held(held) = &end.outcome {
                    env.facts.push(Fact::TurnedAway {
                        owner: hand.owner.clone(),
                        holder_dead: held.holder == Some(Liveness::Dead),
                        refused: asking.refused,
                    });
                }
                asking.open = unsettled;
                self.give_up_asking(env, id, "refused");
                self.refused(env, task);
            }
            Outcome::OwnerDead => {
                asking.open = unsettled;
                let life = Arc::clone(&hand.life);
                self.give_up_asking(env, id, "its process is dead");
                let now = self.now(env);
                if life.deadline.is_valid(now) {
                    life.deadline.lose();
                    self.wake_reports(env);
                }
                self.ask_again(env, task, life_by);
            }
        }
    }

    fn granted(
        &mut self,
        env: &mut Env,
        id: u32,
        token: Token,
        sent: Instant,
        unsettled: Option<StoreTime>,
    ) {
        let now = self.now(env);
        let Some(hand) = self.hands.get_mut(&id) else {
            return;
        };
        let task = hand.task;
        let lock_until = self.timing.valid_until(sent, self.timing.lock_ttl);
        let beats = self.tasks[task].beats_required();
        let tenure = Arc::new(Tenure::new(
            hand.owner.clone(),
            now,
            lock_until,
            Arc::clone(&hand.life.deadline),
            beats.then_some(self.timing.lock_ttl),
            self.timing.stop_budget,
        ));
        if tenure.judge(now).is_err() {
            env.log.mark(if hand.life.deadline.get().is_none() {
                Mark::GrantOfAnEndedIncarnation
            } else {
                Mark::GrantTooLate
            });
            self.give_up_asking(env, id, "granted too late");
            return self.refused(env, task);
        }
        env.note(
            self.index,
            format_args!("holds {} with {token}", hand.owner),
        );
        if matches!(&hand.stage, Stage::Asking(asking) if asking.hinted) {
            env.log.mark(Mark::WokenAndGranted);
        }
        env.log.tally.grants += 1;
        env.facts.push(Fact::Granted {
            hand: HandRef::new(self.index, self.boot, id),
            owner: hand.owner.clone(),
            token,
        });
        hand.due = None;
        hand.stage = Stage::Held(Held {
            tenure,
            token,
            unsettled,
            let_go: false,
            announced: false,
        });
        self.watch(env);
        self.start_work(env, task, id);
    }

    /// The acquisition ends without a guard: what it may have left is settled.
    pub(super) fn give_up_asking(&mut self, env: &mut Env, id: u32, why: &str) {
        let Some(hand) = self.hands.get_mut(&id) else {
            return;
        };
        let Stage::Asking(asking) = &mut hand.stage else {
            return;
        };
        let open = asking.open;
        env.note(
            self.index,
            format_args!("gives up {}: {why}; open until {open:?}", hand.owner),
        );
        match open {
            None => {
                self.hands.remove(&id);
            }
            Some(_) => self.leave(env, id, Instant::ZERO, open, false),
        }
    }

    /// The user drops the future of the acquisition.
    pub(super) fn drop_asking(&mut self, env: &mut Env, id: u32) {
        env.log.fault(Fault::AcquireDropped);
        let in_flight = self.hands.get(&id).and_then(|hand| hand.in_flight);
        if in_flight.is_some_and(|ticket| env.flights[ticket.0].op.is_claim()) {
            env.log.mark(Mark::DroppedInFlight);
        }
        self.unwatch(env, id);
        self.give_up_asking(env, id, "dropped");
    }
}
