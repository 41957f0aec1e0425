//! Redis Cluster: locks on one node, processes on another, each with a clock and troubles of its
//! own.
//!
//! A script sees one node only. So a claim cannot look at its own process; a refused one reads the
//! holder's afterwards; and a take-over is two requests: the process is read, *then* the record is
//! replaced if it is still the observed one. Between the two, anything may happen, and the second may
//! be as late as any request. It is sound because death is one-way.

use super::redis::{Node, released, turned_away, writes};
use super::{Asked, Holder, StoreModel, timeless};
use crate::fault::Fault;
use crate::mark::Mark;
use crate::op::{Answer, Op, Outbox, Subscription, Ticket, Value};
use crate::plan::Plan;
use crate::rng::Rng;
use locker_core::backend::{Claimed, Held, Liveness, Observed, Reply};
use locker_core::{Key, OwnerHash, ProcessHash};
use std::collections::BTreeSet;
use std::time::Duration;

/// Redis Cluster.
#[derive(Debug)]
pub struct Cluster {
    locks: Node,
    processes: Node,
    at: Duration,
    rng: Rng,
    /// Whether the network between two steps is as bad as any other.
    slow_steps: bool,
    second_steps: Vec<Second>,
    /// Processes that a client was told are dead. That is final, although a clock that is stepped
    /// back may show such a record unexpired once more: its owner has stopped.
    called_dead: BTreeSet<ProcessHash>,
    keys: Vec<Key>,
}

/// The second request of an operation.
#[derive(Debug)]
struct Second {
    due: Duration,
    ticket: Ticket,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Replace the record, whose process was found dead; or nobody's, if it was found alive.
    Replace(Op),
    /// Tell how the holder's process stands, if that can be read.
    Look(Answer),
}

impl Cluster {
    /// Two empty nodes.
    pub fn new(plan: &Plan) -> Self {
        Self {
            locks: Node::new(plan.store_rate, plan),
            processes: Node::new(plan.other_rate, plan),
            at: Duration::ZERO,
            rng: Rng::new(plan.seed),
            slow_steps: plan.weather.slow > 0,
            second_steps: Vec::new(),
            called_dead: BTreeSet::new(),
            keys: plan.key_names(),
        }
    }

    fn then(&mut self, ticket: Ticket, what: What) {
        // A round trip; now and then one that takes its time.
        let longest = if self.slow_steps && self.rng.chance(60) {
            700
        } else {
            4
        };
        let after = self
            .rng
            .between(Duration::from_micros(200), Duration::from_millis(longest));
        self.second_steps.push(Second {
            due: self.at + after,
            ticket,
            what,
        });
    }

    fn on_processes(&mut self, asked: Asked<'_>, out: &mut Outbox) {
        if self.processes.is_down() {
            return turned_away(asked, self.processes.refuses(), out);
        }
        let now = self.processes.now();
        if writes(asked.op) {
            self.processes.note();
        }
        if let Op::RetireProcess(process) = asked.op {
            // The locker remembers which locks it was granted, and wakes whoever waits for them.
            for key in self.locks.ledger.of_process(self.locks.now(), process) {
                self.locks.waiters.wake(&key, |_| true, out);
            }
        }
        let answer = self.processes.ledger.apply(now, asked.op, false);
        out.answers.push((asked.ticket, answer));
    }

    fn on_locks(&mut self, asked: Asked<'_>, out: &mut Outbox) {
        if self.locks.is_down() {
            return turned_away(asked, self.locks.refuses(), out);
        }
        let now = self.locks.now();
        if writes(asked.op) {
            self.locks.note();
        }
        let answer = self.locks.ledger.apply(now, asked.op, false);
        self.locks.clock.told(asked.op, &answer);
        if let Some(key) = released(asked.op, answer.as_ref().ok().map(|reply| &reply.value)) {
            self.locks.waiters.wake(&key, |_| true, out);
        }
        if let Op::TakeOver(_, observed) = asked.op
            && !observed.as_str().is_empty()
            && matches!(
                &answer,
                Ok(Reply {
                    value: Value::Claimed(Claimed::Held(_) | Claimed::Absent),
                    ..
                })
            )
        {
            out.marks.push(Mark::SecondStepBehind);
        }
        match &answer {
            Ok(Reply {
                value: Value::Claimed(Claimed::Held(_)) | Value::Lock(Some(_)),
                ..
            }) => self.then(asked.ticket, What::Look(answer)),
            _ => out.answers.push((asked.ticket, answer)),
        }
    }

    /// How a process stands on its node: with what is left of it.
    fn look(&mut self, process: &ProcessHash) -> Option<(Liveness, Duration)> {
        if self.processes.is_down() {
            return None;
        }
        let now = self.processes.now();
        let left = self.processes.ledger.life(now, process);
        let left = left.map_or(0, |life| life.expires - now);
        let liveness = self.processes.ledger.liveness(now, process);
        if liveness == Liveness::Dead {
            self.called_dead.insert(process.clone());
        }
        Some((liveness, Duration::from_micros(left)))
    }

    fn with_holder(&mut self, mut answer: Answer) -> Answer {
        if let Ok(Reply {
            value: Value::Claimed(Claimed::Held(held)) | Value::Lock(Some(held)),
            ..
        }) = &mut answer
            && let Some((liveness, left)) = self.look(held.data.process())
        {
            let held: &mut Held = held;
            held.holder = Some(liveness);
            held.free_in = held.free_in.min(left);
        }
        answer
    }
}

/// Whom an observed version names.
fn observed_owner(observed: &Observed) -> Option<OwnerHash> {
    let (_, owner) = observed.as_str().split_once(' ')?;
    owner.parse().ok()
}

impl StoreModel for Cluster {
    fn advance(&mut self, at: Duration) {
        self.at = at;
        self.locks.advance(at);
        self.processes.advance(at);
    }

    fn receive(&mut self, asked: Asked<'_>, out: &mut Outbox) {
        match asked.op {
            Op::Watch(key, process, who) => {
                self.locks.waiters.enrol(key, process, *who);
                out.answers.push((asked.ticket, timeless(Value::Done)));
            }
            Op::Unwatch(who) => {
                self.locks.waiters.withdraw(*who);
                out.answers.push((asked.ticket, timeless(Value::Done)));
            }
            Op::ReadProcess(_)
            | Op::CreateProcess(..)
            | Op::RenewProcess(..)
            | Op::RetireProcess(_) => self.on_processes(asked, out),
            Op::TakeOver(claim, observed) => {
                let holder = observed_owner(observed);
                let liveness = match holder {
                    Some(owner) => self.look(owner.process()).map(|(liveness, _)| liveness),
                    None => Some(Liveness::Unknown),
                };
                let Some(liveness) = liveness else {
                    return turned_away(asked, self.processes.refuses(), out);
                };
                // A living holder's record is nobody's version.
                let version = if liveness == Liveness::Dead {
                    observed.clone()
                } else {
                    Observed::new("")
                };
                let replace = Op::TakeOver(claim.clone(), version);
                self.then(asked.ticket, What::Replace(replace));
            }
            _ => self.on_locks(asked, out),
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        self.second_steps.iter().map(|second| second.due).min()
    }

    fn wake(&mut self, out: &mut Outbox) {
        let at = self.at;
        let due = self.second_steps.iter().position(|it| it.due <= at);
        let Some(due) = due else { return };
        let Second { ticket, what, .. } = self.second_steps.remove(due);
        match what {
            What::Replace(op) => {
                out.by = Some(ticket);
                let asked = Asked {
                    ticket,
                    op: &op,
                    sent: at,
                };
                self.on_locks(asked, out);
            }
            What::Look(answer) => out.answers.push((ticket, self.with_holder(answer))),
        }
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        self.locks.ledger.holder(self.locks.now(), key, |process| {
            self.is_alive(process) && !self.called_dead.contains(process)
        })
    }

    fn line(&self, key: &Key) -> Vec<Subscription> {
        self.locks.waiters.line(key)
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        let (ledger, now) = (&self.processes.ledger, self.processes.now());
        ledger.life(now, process).is_some()
    }

    fn troubles(&self) -> &'static [Fault] {
        &[
            Fault::Promotion,
            Fault::ClockSteppedBack,
            Fault::ClockSteppedForward,
            Fault::Planted,
        ]
    }

    fn breaches(&self) -> &'static [Fault] {
        &[
            Fault::LossyPromotion,
            Fault::Evicted,
            Fault::ClockLeapt,
            Fault::AllLost,
        ]
    }

    fn strike(&mut self, fault: Fault, rng: &mut Rng, out: &mut Outbox) -> bool {
        if fault == Fault::Planted {
            return self.locks.plant(&self.keys, rng);
        }
        let node = if rng.chance(500) {
            &mut self.locks
        } else {
            &mut self.processes
        };
        match fault {
            Fault::Promotion => {
                node.clock.change(rng);
                node.goes_down(rng);
                node.waiters.rebuilt(out);
                true
            }
            Fault::ClockSteppedBack => node.clock.step_back(rng),
            Fault::ClockSteppedForward => node.clock.step_forward(rng),
            Fault::ClockLeapt => {
                node.clock.leap(rng);
                true
            }
            Fault::LossyPromotion => {
                node.goes_down(rng);
                node.forget_last(rng)
            }
            Fault::AllLost => {
                node.ledger = super::ledger::Ledger::default();
                true
            }
            Fault::Evicted => node.evict(rng),
            _ => false,
        }
    }

    fn planted(&self) -> Vec<Key> {
        self.locks.ledger.planted.iter().cloned().collect()
    }

    fn heal(&mut self, out: &mut Outbox) {
        self.locks.heal(out);
        self.processes.heal(out);
        self.slow_steps = false;
    }
}
