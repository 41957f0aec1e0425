//! The embedded store: every request is one atomic step, answered at once.
//!
//! It *is* the memory store of the core, on a clock that the simulation moves. That clock is also
//! its owners': they share a machine. The kernel tells it of a crash at once, by a lock on a file that
//! goes with its process.

use super::super::op::{Answer, Op, Outbox, Subscription, Value};
use super::{Asked, Holder, StoreModel, timeless};
use futures_util::StreamExt;
use locker_core::backend::{Held, HintStream, Liveness, Watcher};
use locker_core::memory::Memory;
use locker_core::{Backend, Clock, Instant, Key, ManualClock, ProcessHash};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The embedded store.
pub struct Embedded {
    memory: Memory,
    clock: Arc<ManualClock>,
    booted: Instant,
    watchers: Vec<(Subscription, HintStream)>,
}

impl Embedded {
    /// An empty store.
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        Self {
            memory: Memory::new(clock.clone()),
            booted: clock.now(),
            clock,
            watchers: Vec::new(),
        }
    }

    fn answer(&mut self, op: &Op) -> Answer {
        let memory = &self.memory;
        match op {
            Op::TryCreate(claim) => value(now(memory.try_create(claim)), Value::Claimed),
            Op::TakeOver(claim, observed) => {
                value(now(memory.take_over(claim, observed)), Value::Claimed)
            }
            Op::Extend(owners, ttl) => standings(now(memory.extend(owners, *ttl))),
            Op::Check(owners) => standings(now(memory.check(owners))),
            Op::Release(owner) => value(now(memory.release(owner)), Value::Released),
            Op::Settle(owner, until) => value(now(memory.settle(owner, *until)), Value::Settled),
            Op::Mark(owner) => {
                let force = locker_core::backend::Force::Mark;
                value(now(memory.force_release(owner, force)), Value::Released)
            }
            Op::ReadLock(key) => value(now(memory.read_lock(key)), Value::Lock),
            Op::ReadProcess(process) => value(now(memory.read_process(process)), Value::Liveness),
            Op::CreateProcess(process, ttl) => {
                value(now(memory.create_process(process, *ttl)), Value::Born)
            }
            Op::RenewProcess(process, ttl) => {
                value(now(memory.renew_process(process, *ttl)), Value::Renewed)
            }
            Op::RetireProcess(process) => {
                value(now(memory.retire_process(process)), |()| Value::Done)
            }
            Op::Watch(key, process, subscription) => {
                let watcher = Watcher::Waiter(process.clone());
                let hints = now(memory.watch(key, &watcher))?;
                self.watchers.push((*subscription, hints));
                timeless(Value::Done)
            }
            Op::Unwatch(subscription) => {
                self.watchers.retain(|(other, _)| other != subscription);
                timeless(Value::Done)
            }
        }
    }

    fn gather_hints(&mut self, out: &mut Outbox) {
        let mut context = Context::from_waker(Waker::noop());
        self.watchers.retain_mut(|(subscription, hints)| {
            loop {
                match hints.poll_next_unpin(&mut context) {
                    Poll::Ready(Some(hint)) => out.hints.push((*subscription, hint)),
                    Poll::Ready(None) => return false,
                    Poll::Pending => return true,
                }
            }
        });
    }
}

impl StoreModel for Embedded {
    fn advance(&mut self, at: Duration) {
        let by = (self.booted + at).since(self.clock.now());
        self.clock.advance(by);
    }

    fn receive(&mut self, asked: Asked<'_>, out: &mut Outbox) {
        out.answers.push((asked.ticket, self.answer(asked.op)));
        if matches!(
            asked.op,
            Op::Release(_) | Op::Settle(..) | Op::RetireProcess(_) | Op::Unwatch(_)
        ) {
            self.gather_hints(out);
        }
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        let held: Held = now(self.memory.read_lock(key)).ok()?.value?;
        Some(Holder {
            token: held.data.token,
            until: held.data.extended_at.as_micros(),
            marked: held.marked,
            alive: matches!(held.holder, Some(Liveness::Alive(_))),
            owner: held.data.owner,
        })
    }

    fn line(&self, _: &Key) -> Vec<Subscription> {
        self.watchers.iter().map(|(who, _)| *who).collect()
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        now(self.memory.read_process(process))
            .is_ok_and(|reply| matches!(reply.value, Liveness::Alive(_)))
    }

    fn crashed(&mut self, process: &ProcessHash) {
        // Nobody is told: waiters ask the kernel again and again, which costs next to nothing.
        let _ = now(self.memory.retire_process(process));
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("memory", &self.memory)
            .field("watchers", &self.watchers.len())
            .finish_non_exhaustive()
    }
}

/// The memory store never waits.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the memory store never waits"),
    }
}

fn value<T>(answer: locker_core::backend::Answer<T>, wrap: impl FnOnce(T) -> Value) -> Answer {
    answer.map(|reply| reply.map(wrap))
}

fn standings(
    answer: locker_core::backend::Answer<
        Vec<Result<locker_core::backend::Standing, locker_core::BackendError>>,
    >,
) -> Answer {
    value(answer, Value::Standings)
}
