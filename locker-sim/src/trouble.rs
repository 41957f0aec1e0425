//! What happens to a cluster that nobody asked for, until it must heal.

use super::agenda::Part;
use super::agenda::{Call, Event};
use super::fault::Fault;
use super::invariants::Fact;
use super::op::{Op, Outbox, Subscription};
use super::process::hand::Stage;
use super::world::World;
use locker_core::backend::Hint;
use std::time::Duration;

impl World {
    /// Something happens to a process, or to a lock, that nobody asked for.
    pub(super) fn trouble(&mut self) {
        if self.env.healed || self.env.plan.stall_only {
            return;
        }
        let every = self.env.plan.trouble_every;
        let next = self.env.at + self.env.rng.between(every / 2, every * 2);
        self.env.agenda.add(next, Event::Trouble);
        let index = self.env.rng.below(self.processes.len());
        let longest = [150, 900, 3000][self.env.rng.below(3)];
        let until = self.env.at
            + self
                .env
                .rng
                .between(Duration::ZERO, Duration::from_millis(longest));
        let until = until.min(self.env.plan.heals_at);
        let choice = self.env.rng.below(15);
        let process = &mut self.processes[index];
        match choice {
            10..=12 => self.strike_store(),
            _ if !process.up => {}
            0 | 1 => {
                self.env.log.fault(Fault::Crash);
                process.crash(&mut self.env);
                self.start_again(index);
            }
            2..=4 => {
                self.env.log.fault(Fault::Pause);
                self.env
                    .note(index, format_args!("is stopped until {until:?}"));
                process.stop(until);
            }
            5 | 6 => {
                self.env.log.fault(Fault::ReporterStalled);
                self.env
                    .note(index, format_args!("Reporter stalls until {until:?}"));
                process.stall(0, until);
            }
            7 => {
                self.env.log.fault(Fault::TaskStalled);
                let task = 1 + self.env.rng.below(self.env.plan.tasks);
                self.env
                    .note(index, format_args!("thread {task} stalls until {until:?}"));
                process.stall(task, until);
            }
            8 => self.force_release(index),
            9 => process.drain(&mut self.env),
            13 => {
                self.env.log.fault(Fault::ConnectionReset);
                self.env.note(index, format_args!("loses its connections"));
                let boot = process.boot;
                self.env.reset(index, boot);
            }
            _ => self.forge_hint(index),
        }
    }

    fn strike_store(&mut self) {
        let troubles = self.store.troubles();
        if !troubles.is_empty() {
            let fault = troubles[self.env.rng.below(troubles.len())];
            // A6: a store does not both lose its data and step its clock back. Where it did, nothing
            // would be left that a token could be compared with.
            let forgets = self.env.plan.breach.is_some_and(Fault::forgets);
            if !(forgets && fault == Fault::ClockSteppedBack) {
                self.strike(fault);
            }
        }
    }

    /// Lets something happen to the store. Answers whether there was anything to strike.
    fn strike(&mut self, fault: Fault) -> bool {
        let mut out = Outbox::default();
        let before = self.holders();
        let struck = self.store.strike(fault, &mut self.env.rng, &mut out);
        if struck {
            self.env.log.fault(fault);
            self.env
                .log
                .note(self.env.at, "store", format_args!("is struck: {fault}"));
        }
        self.note_changes(before, None);
        self.note_planted();
        self.deliver(out);
        struck
    }

    fn note_planted(&mut self) {
        let keys = self.store.planted();
        self.env.facts.push(Fact::Planted { keys });
    }

    /// An assumption breaks. If there is nothing to strike yet, it is tried again.
    pub(super) fn breach(&mut self) {
        let Some(fault) = self.env.plan.breach.filter(|_| !self.env.healed) else {
            return;
        };
        let struck = match fault {
            Fault::MachinePaused => self.pause_machine(),
            Fault::Cloned => self.clone_process(),
            _ => self.strike(fault),
        };
        if struck {
            self.env.breach = Some(self.env.at);
        } else {
            let soon = self.env.at + Duration::from_millis(150);
            self.env.agenda.add(soon, Event::Breach);
        }
    }

    fn clone_process(&mut self) -> bool {
        let index = self.env.rng.below(self.processes.len());
        let place = self.processes.len();
        let twin = self.processes[index].clone_running(&mut self.env, place);
        let Some(twin) = twin else { return false };
        self.env.cloned.clone_from(&twin.twin_of);
        self.processes.push(twin);
        true
    }

    fn pause_machine(&mut self) -> bool {
        let index = self.env.rng.below(self.processes.len());
        let lasts = self
            .env
            .rng
            .between(Duration::from_millis(100), Duration::from_secs(3));
        let (at, until) = (self.env.at, self.env.at + lasts);
        let process = &mut self.processes[index];
        if !process.up {
            return false;
        }
        self.env.log.fault(Fault::MachinePaused);
        self.env.note(
            index,
            format_args!("and its clock stand still until {until:?}"),
        );
        process.freeze(at, until);
        true
    }

    fn force_release(&mut self, from: usize) {
        let key = self.env.rng.below(self.env.keys.len());
        if let Some(holder) = self.store.holder(&self.env.keys[key]) {
            self.env.log.fault(Fault::ForceRelease);
            let op = Op::Mark(holder.owner);
            let at = self.env.at;
            // An operator: nobody waits for the answer.
            self.env.send((from, 0), Part::LetGo, op, at);
        }
    }

    fn forge_hint(&mut self, index: usize) {
        let process = &self.processes[index];
        let boot = process.boot;
        let waiting = process
            .hands
            .iter()
            .find(|(_, hand)| matches!(hand.stage, Stage::Asking(_)));
        if let Some((hand, _)) = waiting {
            let to = Subscription {
                process: index,
                boot,
                hand: *hand,
            };
            let place = u32::try_from(self.env.rng.below(3)).unwrap_or(0);
            self.env.log.fault(Fault::HintForged);
            self.env.knock(
                self.env.at,
                (index, boot),
                Call::Hint(to, Hint::Free { place }),
            );
        }
    }

    pub(super) fn heal(&mut self) {
        self.env
            .log
            .note(self.env.at, "*", format_args!("the faults have ended"));
        self.env.healed = true;
        let mut out = Outbox::default();
        let before = self.holders();
        self.store.heal(&mut out);
        self.note_changes(before, None);
        self.note_planted();
        self.deliver(out);
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            if process.up {
                process.heal(&mut self.env);
            } else if process.twin_of.is_none() {
                self.start_again(index);
            }
        }
    }
}
