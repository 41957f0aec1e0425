//! The embedded store: every request is one atomic step, answered at once.
//!
//! It *is* the memory store of the core, which is the reference for all others, on a clock that the
//! simulation moves.

use super::super::clock::DriftingClock;
use super::super::op::{Answer, Op, Outbox, Subscription, Ticket, Value};
use super::{Holder, StoreModel};
use futures_util::StreamExt;
use locker_core::backend::{Held, HintStream, Liveness, Reply, Standing, Watcher};
use locker_core::memory::Memory;
use locker_core::{Backend, Clock, Key, ManualClock, ProcessHash};
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The embedded store.
pub struct Embedded {
    memory: Memory,
    clock: Arc<ManualClock>,
    drift: DriftingClock,
    /// Whether a refused claim is told in the same answer if the holder lives; if not, it has to
    /// be asked for, as with a store whose processes live on another shard.
    tells_liveness: bool,
    watchers: Vec<(Subscription, HintStream)>,
}

impl Embedded {
    /// An empty store whose clock runs at this rate.
    pub fn new(rate_permille: u32, tells_liveness: bool) -> Self {
        let clock = Arc::new(ManualClock::new());
        Self {
            memory: Memory::new(clock.clone()),
            drift: DriftingClock::new(clock.now(), rate_permille),
            clock,
            tells_liveness,
            watchers: Vec::new(),
        }
    }

    /// Forgets the names of dead processes at once. The contract keeps them for a month; a mutant
    /// does not.
    pub(in super::super) fn forget_the_dead(&self) {
        let _ = now(self.memory.sweep(Duration::ZERO));
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
                Ok(untimed(Value::Done))
            }
            Op::Unwatch(subscription) => {
                self.watchers.retain(|(other, _)| other != subscription);
                Ok(untimed(Value::Done))
            }
        }
    }

    /// Forgets what the store knew of the holder, if it is one that cannot tell.
    fn veil(&self, answer: &mut Answer) {
        use locker_core::backend::Claimed;
        if self.tells_liveness {
            return;
        }
        if let Ok(Reply {
            value: Value::Claimed(Claimed::Held(held)) | Value::Lock(Some(held)),
            ..
        }) = answer
        {
            held.holder = None;
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
        let by = self.drift.read(at).since(self.clock.now());
        self.clock.advance(by);
    }

    fn receive(&mut self, ticket: Ticket, op: &Op, out: &mut Outbox) {
        let mut answer = self.answer(op);
        self.veil(&mut answer);
        out.answers.push((ticket, answer));
        if matches!(
            op,
            Op::Release(_) | Op::Settle(..) | Op::RetireProcess(_) | Op::Unwatch(_)
        ) {
            self.gather_hints(out);
        }
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        let held: Held = now(self.memory.read_lock(key)).ok()?.value?;
        Some(Holder {
            token: held.data.token,
            extended_at: held.data.extended_at,
            marked: held.marked,
            alive: matches!(held.holder, Some(Liveness::Alive(_))),
            owner: held.data.owner,
        })
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        now(self.memory.read_process(process))
            .is_ok_and(|reply| matches!(reply.value, Liveness::Alive(_)))
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

/// An answer that bears no time.
fn untimed(value: Value) -> Reply<Value> {
    Reply {
        value,
        store_time: None,
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
    answer: locker_core::backend::Answer<Vec<Result<Standing, locker_core::BackendError>>>,
) -> Answer {
    let reply = answer?;
    let store_time = reply.store_time;
    let standings: Result<Vec<_>, _> = reply.value.into_iter().collect();
    Ok(Reply {
        value: Value::Standings(standings?),
        store_time,
    })
}
