//! Six mistakes that lockers make, each re-introduced: the proof that the simulation can fail.
//!
//! A mutant is a wrapper, not a patch: a driver that decides one thing otherwise
//! ([`Conduct`]), or a store that does one thing otherwise ([`StoreModel`]). The machines under it
//! are the shipped ones, and the shipped code has no switch.

use super::conduct::{Conduct, Right};
use super::op::{Op, Outbox, Ticket, Value};
use super::plan::Plan;
use super::store::{Embedded, Holder, StoreModel};
use super::world::{SHIPPED, Subject};
use locker_core::backend::{Claim, Claimed, Observed, Renewal, Reply};
use locker_core::{Instant, Key, ProcessHash, StoreTime};
use std::time::Duration;

/// The six.
pub const MUTANTS: [Subject; 6] = [
    Subject {
        name: "deadline from the reply",
        conduct: &FromTheReply,
        ..SHIPPED
    },
    Subject {
        name: "loss not sticky",
        conduct: &NotSticky,
        ..SHIPPED
    },
    Subject {
        name: "two-step take-over",
        conduct: &Right,
        store: |plan| Box::new(TwoSteps::new(plan)),
    },
    Subject {
        name: "renewal that re-creates",
        conduct: &Right,
        store: |plan| Box::new(Recreates(embedded(plan))),
    },
    Subject {
        name: "acquire not idempotent",
        conduct: &Right,
        store: |plan| Box::new(Forgetful(embedded(plan))),
    },
    Subject {
        name: "forgotten unsettled attempt",
        conduct: &Forgets,
        ..SHIPPED
    },
];

fn embedded(plan: &Plan) -> Embedded {
    Embedded::new(plan.store_rate, plan.tells_liveness)
}

/// Counts every TTL from when the acknowledgement arrived.
#[derive(Debug)]
struct FromTheReply;

impl Conduct for FromTheReply {
    fn counts_from(&self, _sent: Instant, answered: Instant) -> Instant {
        answered
    }
}

/// Lets a late acknowledgement make everything good again.
#[derive(Debug)]
struct NotSticky;

impl Conduct for NotSticky {
    fn revives(&self) -> bool {
        true
    }
}

/// Takes an attempt without an answer for one without an effect.
#[derive(Debug)]
struct Forgets;

impl Conduct for Forgets {
    fn remembers(&self, _unsettled: Option<StoreTime>) -> Option<StoreTime> {
        None
    }
}

/// A take-over looks whether the holder is dead, and a moment later deletes and creates.
#[derive(Debug)]
struct TwoSteps {
    inner: Embedded,
    at: Duration,
    second_steps: Vec<(Duration, Ticket, Claim)>,
}

impl TwoSteps {
    const BETWEEN: Duration = Duration::from_millis(3);

    fn new(plan: &Plan) -> Self {
        Self {
            inner: embedded(plan),
            at: Duration::ZERO,
            second_steps: Vec::new(),
        }
    }

    fn holder_is_dead(&self, claim: &Claim, observed: &Observed) -> bool {
        let holder = self.inner.holder(claim.key());
        holder.is_some_and(|holder| !holder.alive && holder.owner.as_str() == observed.as_str())
    }
}

impl StoreModel for TwoSteps {
    fn advance(&mut self, at: Duration) {
        self.at = at;
        self.inner.advance(at);
    }

    fn receive(&mut self, ticket: Ticket, op: &Op, out: &mut Outbox) {
        match op {
            Op::TakeOver(claim, observed) if self.holder_is_dead(claim, observed) => {
                let then = self.at + Self::BETWEEN;
                self.second_steps.push((then, ticket, claim.clone()));
            }
            _ => self.inner.receive(ticket, op, out),
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        self.second_steps.iter().map(|(then, ..)| *then).min()
    }

    fn wake(&mut self, out: &mut Outbox) {
        let at = self.at;
        let due = self.second_steps.extract_if(.., |(then, ..)| *then <= at);
        for (_, ticket, claim) in due.collect::<Vec<_>>() {
            if let Some(holder) = self.inner.holder(claim.key()) {
                // Whoever it is by now.
                let mut unheard = Outbox::default();
                self.inner
                    .receive(ticket, &Op::Release(holder.owner), &mut unheard);
            }
            self.inner.receive(ticket, &Op::TryCreate(claim), out);
        }
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        self.inner.holder(key)
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        self.inner.is_alive(process)
    }
}

/// A renewal writes the process record, whether there is one or not.
#[derive(Debug)]
struct Recreates(Embedded);

impl StoreModel for Recreates {
    fn advance(&mut self, at: Duration) {
        self.0.advance(at);
    }

    fn receive(&mut self, ticket: Ticket, op: &Op, out: &mut Outbox) {
        let Op::RenewProcess(process, ttl) = op else {
            return self.0.receive(ticket, op, out);
        };
        if self.0.is_alive(process) {
            return self.0.receive(ticket, op, out);
        }
        self.0.forget_the_dead();
        let (mut born, create) = (Outbox::default(), Op::CreateProcess(process.clone(), *ttl));
        self.0.receive(ticket, &create, &mut born);
        for (ticket, answer) in born.answers {
            let renewed = answer.map(|reply| {
                let ttl = *ttl;
                reply.map(|_| Value::Renewed(Renewal::Renewed { valid_for: ttl }))
            });
            out.answers.push((ticket, renewed));
        }
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        self.0.holder(key)
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        self.0.is_alive(process)
    }
}

/// A create by the holder itself is refused like one by anybody else.
#[derive(Debug)]
struct Forgetful(Embedded);

impl StoreModel for Forgetful {
    fn advance(&mut self, at: Duration) {
        self.0.advance(at);
    }

    fn receive(&mut self, ticket: Ticket, op: &Op, out: &mut Outbox) {
        let own = match op {
            Op::TryCreate(claim) => self
                .0
                .holder(claim.key())
                .filter(|holder| holder.owner == claim.owner),
            _ => None,
        };
        let Some(own) = own else {
            return self.0.receive(ticket, op, out);
        };
        let mut read = Outbox::default();
        self.0
            .receive(ticket, &Op::ReadLock(own.owner.key().clone()), &mut read);
        for (ticket, answer) in read.answers {
            let held = answer.map(|reply: Reply<Value>| {
                reply.map(|value| match value {
                    Value::Lock(Some(held)) => Value::Claimed(Claimed::Held(held)),
                    other => other,
                })
            });
            out.answers.push((ticket, held));
        }
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        self.0.holder(key)
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        self.0.is_alive(process)
    }
}
