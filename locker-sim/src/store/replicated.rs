//! Redis with an asynchronous replica, and its promotion.
//!
//! Within the assumptions a promotion loses nothing (A2: the replica had caught up) and the new
//! master's clock is not ahead by the hard margin (A3). Against them it loses the last writes. For a
//! while after it the former master, now a replica of nobody's, still answers the reads of those who
//! have not heard: from its own old records, by its own clock. It refuses every write, and "dead" is
//! said by none that refuses a write.

use super::redis::{Node, step, turned_away, writes};
use super::{Asked, Holder, StoreModel, refusal};
use crate::fault::Fault;
use crate::mark::Mark;
use crate::op::{Op, Outbox, Subscription};
use crate::plan::Plan;
use crate::rng::Rng;
use locker_core::{ErrorKind, Key, ProcessHash};
use std::time::Duration;

/// Redis with a replica.
#[derive(Debug)]
pub struct Replicated {
    master: Node,
    former: Option<Former>,
    at: Duration,
    keys: Vec<Key>,
}

/// A former master that does not know that it is one.
#[derive(Debug)]
struct Former {
    node: Node,
    until: Duration,
}

impl Replicated {
    /// An empty pair.
    pub fn new(plan: &Plan) -> Self {
        Self {
            master: Node::new(plan.store_rate, plan),
            former: None,
            at: Duration::ZERO,
            keys: plan.key_names(),
        }
    }

    fn promote(&mut self, rng: &mut Rng, out: &mut Outbox) {
        let lasts = rng.between(Duration::from_millis(50), Duration::from_millis(1500));
        self.former = Some(Former {
            node: self.master.clone(),
            until: self.at + lasts,
        });
        self.master.clock.change(rng);
        self.master.goes_down(rng);
        self.master.waiters.rebuilt(out);
    }
}

impl StoreModel for Replicated {
    fn advance(&mut self, at: Duration) {
        self.at = at;
        self.master.advance(at);
        if self.former.as_ref().is_some_and(|it| it.until <= at) {
            self.former = None;
        }
        if let Some(former) = &mut self.former {
            former.node.advance(at);
        }
    }

    fn receive(&mut self, asked: Asked<'_>, out: &mut Outbox) {
        // Every third request still goes there.
        if let Some(former) = &mut self.former
            && asked.ticket.0.is_multiple_of(3)
        {
            let dead = match asked.op {
                Op::ReadProcess(it) => former.node.ledger.life(former.node.now(), it).is_none(),
                _ => false,
            };
            let refused = writes(asked.op) || dead || matches!(asked.op, Op::Watch(..));
            if refused {
                let error = refusal(ErrorKind::Unavailable, "READONLY");
                return out.answers.push((asked.ticket, Err(error)));
            }
            out.marks.push(Mark::StaleRead);
            return step(&mut former.node, asked, out);
        }
        if self.master.is_down() {
            return turned_away(asked, self.master.refuses(), out);
        }
        step(&mut self.master, asked, out);
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        let (ledger, now) = (&self.master.ledger, self.master.now());
        ledger.holder(now, key, |process| ledger.life(now, process).is_some())
    }

    fn line(&self, key: &Key) -> Vec<Subscription> {
        self.master.waiters.line(key)
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        let (ledger, now) = (&self.master.ledger, self.master.now());
        ledger.life(now, process).is_some()
    }

    fn troubles(&self) -> &'static [Fault] {
        &[
            Fault::Promotion,
            Fault::Promotion,
            Fault::ClockSteppedBack,
            Fault::Planted,
        ]
    }

    fn breaches(&self) -> &'static [Fault] {
        &[
            Fault::LossyPromotion,
            Fault::LossyPromotion,
            Fault::ClockLeapt,
            Fault::Evicted,
        ]
    }

    fn strike(&mut self, fault: Fault, rng: &mut Rng, out: &mut Outbox) -> bool {
        match fault {
            Fault::Promotion => {
                self.promote(rng, out);
                true
            }
            Fault::LossyPromotion => {
                // Its clock is not behind by more than the fail-over took (A6).
                let lossy = self.master.forget_last(rng);
                self.master.goes_down(rng);
                self.master.waiters.rebuilt(out);
                lossy
            }
            Fault::ClockSteppedBack => self.master.clock.step_back(rng),
            Fault::ClockLeapt => {
                self.master.clock.leap(rng);
                true
            }
            Fault::Evicted => self.master.evict(rng),
            Fault::Planted => self.master.plant(&self.keys, rng),
            _ => false,
        }
    }

    fn planted(&self) -> Vec<Key> {
        self.master.ledger.planted.iter().cloned().collect()
    }

    fn heal(&mut self, out: &mut Outbox) {
        self.former = None;
        self.master.heal(out);
    }
}
