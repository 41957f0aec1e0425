//! The way back: the release on the caller's runtime, and the Reporter that finishes it.

use super::super::agenda::Part;
use super::super::env::Env;
use super::super::fault::Fault;
use super::super::invariants::Fact;
use super::super::op::{Answer, Op, Ticket, told};
use super::super::store::Kind;
use super::Process;
use super::hand::{Leaving, Stage};
use locker_core::backend::Released;
use locker_core::machine::release::{End, ReleaseStep, Request};
use locker_core::machine::{Release, Step};
use locker_core::{Instant, StoreTime};

impl Process {
    /// Puts an owner hash on its way back. With `by_caller` the user's task waits for it first.
    pub(super) fn leave(
        &mut self,
        env: &mut Env,
        id: u32,
        gone_by: Instant,
        unsettled: Option<StoreTime>,
        by_caller: bool,
    ) {
        let Some(hand) = self.hands.get_mut(&id) else {
            return;
        };
        hand.in_flight = None;
        hand.due = None;
        hand.stage = Stage::Leaving(Leaving {
            machine: None,
            gone_by,
            unsettled,
            by_reporter: !by_caller,
            awaited: by_caller,
        });
        self.begin_release(env, id);
    }

    /// Ends the tenure of a held lock, whose guard is given back or dropped.
    pub(super) fn depart(&mut self, env: &mut Env, id: u32, by_caller: bool) {
        let now = self.now(env);
        let Some(hand) = self.hands.get_mut(&id) else {
            return;
        };
        let Stage::Held(held) = &hand.stage else {
            return;
        };
        let unsettled = held.unsettled;
        drop(held.tenure.close(now));
        let drift = self.timing.lock_ttl * self.timing.drift_permille / 500;
        let gone_by = if env.plan.kind == Kind::Etcd {
            // The record lasts as long as its process.
            Instant::FAR_FUTURE
        } else {
            now + self.timing.lock_ttl + drift + self.timing.not_after_patience()
        };
        self.leave(env, id, gone_by, unsettled, by_caller);
    }

    fn begin_release(&mut self, env: &mut Env, id: u32) {
        let Some(hand) = self.hands.get_mut(&id) else {
            return;
        };
        let Stage::Leaving(leaving) = &hand.stage else {
            return;
        };
        let (owner, timing) = (hand.owner.clone(), self.timing);
        let (machine, request) = Release::begin(owner, timing, leaving.gone_by, leaving.unsettled);
        self.release_step(env, id, Step::Call(machine, request));
    }

    /// The Reporter takes over what the caller could not finish. It goes on with the caller's
    /// machine, or begins anew where that has gone with a future that was dropped.
    fn hand_over(&mut self, env: &mut Env, id: u32, begun: Option<Release>) {
        let now = self.now(env);
        if let Some(hand) = self.hands.get_mut(&id)
            && let Stage::Leaving(leaving) = &mut hand.stage
        {
            leaving.by_reporter = true;
            leaving.machine = None;
            hand.in_flight = None;
            hand.due = None;
            match begun {
                Some(machine) => self.release_step(env, id, machine.on_wake(now)),
                None => self.begin_release(env, id),
            }
        }
    }

    /// The user drops the future of the release.
    pub(super) fn drop_release(&mut self, env: &mut Env, id: u32) {
        if let Some(hand) = self.hands.get_mut(&id)
            && let Stage::Leaving(leaving) = &mut hand.stage
            && leaving.awaited
        {
            env.log.fault(Fault::ReleaseDropped);
            leaving.awaited = false;
            if !leaving.by_reporter {
                self.hand_over(env, id, None);
            }
        }
    }

    pub(super) fn wake_release(&mut self, env: &mut Env, id: u32) {
        let now = self.now(env);
        if let Some(machine) = self.release_machine(id) {
            let step = machine.on_wake(now);
            self.release_step(env, id, step);
        }
    }

    fn release_machine(&mut self, id: u32) -> Option<Release> {
        match &mut self.hands.get_mut(&id)?.stage {
            Stage::Leaving(leaving) => leaving.machine.take(),
            Stage::Asking(_) | Stage::Held(_) => None,
        }
    }

    pub(super) fn on_release_answer(
        &mut self,
        env: &mut Env,
        id: u32,
        ticket: Ticket,
        answer: Answer,
    ) {
        self.heard(env, ticket, &answer);
        let now = self.now(env);
        let Some(machine) = self.release_machine(id) else {
            return;
        };
        let by_caller = match self.hands.get(&id).map(|hand| &hand.stage) {
            Some(Stage::Leaving(leaving)) => !leaving.by_reporter,
            _ => return,
        };
        let step = match &env.flights[ticket.0].op {
            Op::Release(_) => machine.on_released(now, told(answer)),
            _ => machine.on_settled(now, told(answer)),
        };
        if !by_caller {
            return self.release_step(env, id, step);
        }
        match step {
            Step::Done(_) => self.release_step(env, id, step),
            // What is still to be settled is no matter of the task's; what was not answered is, and it
            // waits while the Reporter repeats it.
            Step::Call(machine, _) | Step::Sleep(machine, _) => {
                if let Some(word) = machine.word() {
                    self.tell(env, id, word.as_ref().ok());
                }
                self.hand_over(env, id, Some(machine));
            }
        }
    }

    fn release_step(&mut self, env: &mut Env, id: u32, step: ReleaseStep) {
        if let Step::Call(machine, _) | Step::Sleep(machine, _) = &step
            && let Some(word) = machine.word()
        {
            self.tell(env, id, word.as_ref().ok());
        }
        match step {
            Step::Call(machine, request) => {
                let op = match request {
                    Request::Release(owner) => Op::Release(owner),
                    Request::Settle(owner, until) => Op::Settle(owner, until),
                };
                let ticket = self.send(env, Part::Hand(id), op);
                if let Some(hand) = self.hands.get_mut(&id)
                    && let Stage::Leaving(leaving) = &mut hand.stage
                {
                    leaving.machine = Some(machine);
                    hand.in_flight = Some(ticket);
                    hand.due = None;
                }
            }
            Step::Sleep(machine, until) => {
                if let Some(hand) = self.hands.get_mut(&id)
                    && let Stage::Leaving(leaving) = &mut hand.stage
                {
                    leaving.machine = Some(machine);
                    hand.due = Some(until);
                }
                self.wake_at(env, Part::Hand(id), until);
            }
            Step::Done(end) => self.gone(env, id, &end),
        }
    }

    fn gone(&mut self, env: &mut Env, id: u32, end: &End) {
        match end {
            End::Confirmed(word) => self.tell(env, id, word.as_ref().ok()),
            End::RanOut(_) => self.tell(env, id, None),
        }
        if let Some(hand) = self.hands.remove(&id) {
            env.note(self.index, format_args!("forgets {}: {end:?}", hand.owner));
            if let Stage::Leaving(leaving) = &hand.stage
                && leaving.unsettled.is_some()
            {
                env.log.tally.settled += 1;
            }
            env.facts.push(Fact::Forgotten { owner: hand.owner });
        }
    }

    /// Tells the task what became of its release, once.
    fn tell(&mut self, env: &mut Env, id: u32, found: Option<&Released>) {
        if let Some(hand) = self.hands.get_mut(&id)
            && let Stage::Leaving(leaving) = &mut hand.stage
            && leaving.awaited
        {
            leaving.awaited = false;
            let (task, owner) = (hand.task, hand.owner.clone());
            self.released(env, task, owner, found);
        }
    }

    /// The task's patience with the release is over: the Reporter goes on alone.
    pub(super) fn stop_waiting_for_release(&mut self, env: &mut Env, id: u32) {
        self.tell(env, id, None);
    }
}
