//! Redis alone: one script a request, one atomic step, on a wall clock.
//!
//! The clock may be stepped back at will, and forward within A3. A restart keeps what was written
//! (A2), breaks every connection, and the subscriptions are rebuilt. When its memory is full it takes
//! nothing new, and goes on with what it has (attack 23). Against the assumptions it may forget its
//! last writes, or all of them, evict a key, or leap forward.

use super::ledger::{self, Ledger};
use super::server_clock::ServerClock;
use super::waiters::Waiters;
use super::{Asked, Holder, StoreModel, refusal, timeless};
use crate::fault::Fault;
use crate::op::{Op, Outbox, Subscription, Value};
use crate::plan::Plan;
use crate::rng::Rng;
use locker_core::backend::{Released, Settlement};
use locker_core::{ErrorKind, Key, ProcessHash};
use std::time::Duration;

/// One server: its records, its clock, and the time at which it serves again.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) ledger: Ledger,
    pub(super) clock: ServerClock,
    pub(super) waiters: Waiters,
    at: Duration,
    down_until: Duration,
    /// Whether it refuses connections meanwhile, or lets requests wait for ever.
    refuses: bool,
    past: Past,
}

impl Node {
    pub(super) fn new(rate: u32, plan: &Plan) -> Self {
        Self {
            ledger: Ledger::default(),
            clock: ServerClock::new(rate, plan),
            waiters: Waiters::default(),
            at: Duration::ZERO,
            down_until: Duration::ZERO,
            refuses: false,
            past: Past::new(plan.breach.is_some_and(Fault::loses_last_writes)),
        }
    }

    pub(super) fn advance(&mut self, at: Duration) {
        self.at = at;
        self.clock.advance(at);
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.now()
    }

    pub(super) fn is_down(&self) -> bool {
        self.at < self.down_until
    }

    pub(super) fn refuses(&self) -> bool {
        self.refuses
    }

    /// Serves nobody for a while: half a request timeout, or several.
    pub(super) fn goes_down(&mut self, rng: &mut Rng) {
        let longest = [150, 1200][rng.below(2)];
        let pause = rng.between(Duration::from_millis(10), Duration::from_millis(longest));
        self.down_until = self.at + pause;
        self.refuses = rng.chance(500);
    }

    /// Notes the state before a step, if the last writes are to be forgotten.
    pub(super) fn note(&mut self) {
        self.past.note(self.at, &self.ledger);
    }

    /// Forgets what was written in the last while.
    pub(super) fn forget_last(&mut self, rng: &mut Rng) -> bool {
        let lag = rng.between(Duration::from_millis(5), Duration::from_millis(1000));
        let before = self.past.at(self.at.saturating_sub(lag));
        let Some(before) = before else { return false };
        let differs =
            before.locks != self.ledger.locks || before.processes != self.ledger.processes;
        self.ledger = before;
        differs
    }

    /// Evicts a lock, or a process.
    pub(super) fn evict(&mut self, rng: &mut Rng) -> bool {
        if rng.chance(700) {
            let key = nth(self.ledger.locks.keys(), rng).cloned();
            key.is_some_and(|key| self.ledger.locks.remove(&key).is_some())
        } else {
            let process = nth(self.ledger.processes.keys(), rng).cloned();
            process.is_some_and(|it| self.ledger.processes.remove(&it).is_some())
        }
    }

    /// S11: somebody writes what is no record under a free key.
    pub(super) fn plant(&mut self, keys: &[Key], rng: &mut Rng) -> bool {
        let now = self.now();
        let key = &keys[rng.below(keys.len())];
        let free = self.ledger.record(now, key).is_none();
        if free {
            self.ledger.planted.insert(key.clone());
        }
        free
    }
}

fn nth<'a, T>(all: impl ExactSizeIterator<Item = &'a T>, rng: &mut Rng) -> Option<&'a T> {
    let place = rng.below(all.len());
    let mut all = all;
    all.nth(place)
}

/// What a server was, for as long as it may go back to.
#[derive(Debug, Clone)]
struct Past {
    kept: bool,
    states: Vec<(Duration, Ledger)>,
}

impl Past {
    fn new(kept: bool) -> Self {
        Self {
            kept,
            states: Vec::new(),
        }
    }

    fn note(&mut self, at: Duration, ledger: &Ledger) {
        if self.kept {
            self.states.push((at, ledger.clone()));
        }
    }

    /// What was the state at this moment: each note is of the state *before* a step.
    fn at(&self, at: Duration) -> Option<Ledger> {
        let later = self.states.iter().find(|(noted, _)| *noted > at);
        later.map(|(_, ledger)| ledger.clone())
    }
}

/// Whether a request changes anything, or may.
pub(super) fn writes(op: &Op) -> bool {
    !matches!(
        op,
        Op::Check(_) | Op::ReadLock(_) | Op::ReadProcess(_) | Op::Watch(..) | Op::Unwatch(_)
    )
}

/// Redis alone.
#[derive(Debug)]
pub struct Redis {
    node: Node,
    keys: Vec<Key>,
    full_until: Duration,
}

impl Redis {
    /// An empty server.
    pub fn new(plan: &Plan) -> Self {
        Self {
            node: Node::new(plan.store_rate, plan),
            keys: plan.key_names(),
            full_until: Duration::ZERO,
        }
    }
}

/// Whether a request puts something where there may be nothing yet. What keeps a process or a lock, or
/// gives it back, finds its record there.
fn needs_room(op: &Op) -> bool {
    matches!(
        op,
        Op::TryCreate(_) | Op::TakeOver(..) | Op::CreateProcess(..) | Op::Mark(_) | Op::Watch(..)
    )
}

/// One step of a server that sees locks and processes; with the hints that follow.
pub(super) fn step(node: &mut Node, asked: Asked<'_>, out: &mut Outbox) {
    let now = node.now();
    match asked.op {
        Op::Watch(key, process, who) => {
            node.waiters.enrol(key, process, *who);
            return out.answers.push((asked.ticket, timeless(Value::Done)));
        }
        Op::Unwatch(who) => {
            node.waiters.withdraw(*who);
            return out.answers.push((asked.ticket, timeless(Value::Done)));
        }
        _ => {}
    }
    if writes(asked.op) {
        node.note();
    }
    let freed = match asked.op {
        Op::RetireProcess(process) => node.ledger.of_process(now, process),
        _ => Vec::new(),
    };
    let answer = node.ledger.apply(now, asked.op, true);
    node.clock.told(asked.op, &answer);
    let lives = |process: &ProcessHash| node.ledger.life(now, process).is_some();
    if let Some(key) = released(asked.op, answer.as_ref().ok().map(|reply| &reply.value)) {
        node.waiters.wake(&key, lives, out);
    }
    for key in freed {
        node.waiters.wake(&key, lives, out);
    }
    out.answers.push((asked.ticket, answer));
}

/// The key that this answer has set free.
pub(super) fn released(op: &Op, value: Option<&Value>) -> Option<Key> {
    let (Op::Release(owner) | Op::Settle(owner, _)) = op else {
        return None;
    };
    let done = matches!(
        value?,
        Value::Released(Released::Done)
            | Value::Settled(Settlement::Final(Released::Done) | Settlement::Open(Released::Done))
    );
    done.then(|| owner.key().clone())
}

/// What a server that is down makes of a request: it refuses it at once, or never answers. Neither has
/// an effect.
pub(super) fn turned_away(asked: Asked<'_>, refuses: bool, out: &mut Outbox) {
    if refuses {
        let error = refusal(ErrorKind::Unavailable, "the server is not there");
        out.answers.push((asked.ticket, Err(error)));
    }
}

impl StoreModel for Redis {
    fn advance(&mut self, at: Duration) {
        self.node.advance(at);
    }

    fn receive(&mut self, asked: Asked<'_>, out: &mut Outbox) {
        if self.node.is_down() {
            return turned_away(asked, self.node.refuses(), out);
        }
        if self.node.at < self.full_until && needs_room(asked.op) {
            let error = refusal(ErrorKind::Unavailable, "the server's memory is full");
            return out.answers.push((asked.ticket, Err(error)));
        }
        step(&mut self.node, asked, out);
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        let (ledger, now) = (&self.node.ledger, self.node.now());
        ledger.holder(now, key, |process| ledger.life(now, process).is_some())
    }

    fn line(&self, key: &Key) -> Vec<Subscription> {
        self.node.waiters.line(key)
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        self.node.ledger.life(self.node.now(), process).is_some()
    }

    fn troubles(&self) -> &'static [Fault] {
        &[
            Fault::ClockSteppedBack,
            Fault::ClockSteppedForward,
            Fault::StoreRestarted,
            Fault::MemoryFull,
            Fault::Planted,
        ]
    }

    fn breaches(&self) -> &'static [Fault] {
        &[
            Fault::LastWritesLost,
            Fault::AllLost,
            Fault::Evicted,
            Fault::ClockLeapt,
        ]
    }

    fn strike(&mut self, fault: Fault, rng: &mut Rng, out: &mut Outbox) -> bool {
        let node = &mut self.node;
        match fault {
            Fault::ClockSteppedBack => node.clock.step_back(rng),
            Fault::ClockSteppedForward => node.clock.step_forward(rng),
            Fault::ClockLeapt => {
                node.clock.leap(rng);
                true
            }
            Fault::StoreRestarted => {
                node.goes_down(rng);
                node.waiters.rebuilt(out);
                true
            }
            Fault::MemoryFull => {
                let longest = Duration::from_millis([200, 3000][rng.below(2)]);
                self.full_until = node.at + rng.between(Duration::ZERO, longest);
                true
            }
            Fault::Planted => node.plant(&self.keys, rng),
            Fault::LastWritesLost => node.forget_last(rng),
            Fault::AllLost => {
                node.ledger = ledger::Ledger::default();
                true
            }
            Fault::Evicted => node.evict(rng),
            _ => false,
        }
    }

    fn planted(&self) -> Vec<Key> {
        self.node.ledger.planted.iter().cloned().collect()
    }

    fn heal(&mut self, out: &mut Outbox) {
        self.full_until = Duration::ZERO;
        self.node.heal(out);
    }
}

impl Node {
    /// Serves again; what was planted is cleaned up, and whoever waits is told to look.
    pub(super) fn heal(&mut self, out: &mut Outbox) {
        self.down_until = self.down_until.min(self.at);
        self.ledger.planted.clear();
        self.waiters.rebuilt(out);
    }
}
