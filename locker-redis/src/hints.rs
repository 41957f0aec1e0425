//! The streams of hints of one locker: where a message of the subscription finds its stream, and
//! where a dropped stream leaves its withdrawal until it can be sent.
//!
//! The hub lives as long as a connection or a stream of it does, so a stream outlives a connection
//! that was given up. What keeps the subscription itself is in `subscription`.

use crate::subscription::Subscription;
use futures_core::Stream;
use locker_core::backend::{Hint, Watcher};
use locker_core::{BackendError, Key, ProcessHash};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How many withdrawals may wait before those of ghosts are left to their next hint: messages that
/// are forged fill no memory.
const MOST_GHOSTS: usize = 1024;

/// The hub, with the task that keeps its subscription. Dropping it ends both.
#[derive(Debug)]
pub(crate) struct Hub {
    subscription: Arc<Subscription>,
    keeper: JoinHandle<()>,
}

impl Hub {
    /// A hub whose subscription lives on this runtime. Nothing is opened before the first watch.
    pub(crate) fn new(subscription: Subscription, runtime: &Handle) -> Arc<Self> {
        let subscription = Arc::new(subscription);
        let keeper = runtime.spawn(Arc::clone(&subscription).keep());
        Arc::new(Self {
            subscription,
            keeper,
        })
    }

    /// Whether it lives on this runtime.
    pub(crate) fn is_of(&self, runtime: &Handle) -> bool {
        self.subscription.is_of(runtime)
    }

    /// Subscribes and enrols; resolves when both are confirmed.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        key: &Key,
        watcher: &Watcher,
    ) -> Result<Hints, BackendError> {
        let slots = self.subscription.slots();
        // The stream is there first: whatever happens to the request, its drop withdraws.
        let hints = Hints {
            id: slots.open(self.subscription.lock_of(key), watcher),
            hub: Arc::clone(self),
        };
        self.subscription.enrol(hints.id).await?;
        Ok(hints)
    }

    /// Ends everything that this process waits for.
    pub(crate) fn end_process(&self, process: &ProcessHash) {
        self.subscription.slots().end_process(process);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Enrolments that are still there are forgotten by whoever finds their mailbox deserted.
        self.keeper.abort();
    }
}

/// The streams of a hub by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    state: Mutex<State>,
    /// There is something for the keeper to do.
    bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    slots: HashMap<u64, Slot>,
    withdrawn: Vec<Withdrawal>,
}

#[derive(Debug)]
struct Slot {
    lock: String,
    watcher: Watcher,
    /// The number of its enrolment, when the server has told it.
    number: Option<String>,
    /// Whether the enrolment is known to be there.
    enrolled: bool,
    /// At most one hint waits: a newer one says all that an older one did.
    hint: Option<Hint>,
    waker: Option<Waker>,
}

/// What the keeper has to enrol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Enrolment {
    pub(crate) id: u64,
    pub(crate) lock: String,
    pub(crate) waits: Option<ProcessHash>,
    /// Its number, if it was enrolled before.
    pub(crate) former: Option<String>,
}

/// What the keeper has to withdraw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Withdrawal {
    pub(crate) id: u64,
    pub(crate) lock: String,
    pub(crate) number: String,
}

impl Slots {
    fn open(&self, lock: String, watcher: &Watcher) -> u64 {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let slot = Slot {
            lock,
            watcher: watcher.clone(),
            number: None,
            enrolled: false,
            hint: None,
            waker: None,
        };
        state.slots.insert(id, slot);
        id
    }

    /// What is to be enrolled for this stream; nothing if it is gone.
    pub(crate) fn enrolment(&self, id: u64) -> Option<Enrolment> {
        let state = self.lock();
        state.slots.get(&id).map(|slot| slot.enrolment(id))
    }

    /// Notes that the server has enrolled a stream. One that is gone is withdrawn.
    pub(crate) fn enrolled(&self, enrolment: &Enrolment, number: &str, again: bool) {
        let waker = {
            let mut state = self.lock();
            let Some(slot) = state.slots.get_mut(&enrolment.id) else {
                state.withdrawn.push(Withdrawal {
                    id: enrolment.id,
                    lock: enrolment.lock.clone(),
                    number: number.to_owned(),
                });
                drop(state);
                self.bell.notify_one();
                return;
            };
            slot.number = Some(number.to_owned());
            slot.enrolled = true;
            if again {
                // What happened meanwhile is unknown.
                slot.hint = Some(Hint::Rebuilt);
            }
            slot.waker.take().filter(|_| again)
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// The streams that were enrolled once and are not known to be any more.
    pub(crate) fn lapsed(&self) -> Vec<Enrolment> {
        let state = self.lock();
        let lapsed = state
            .slots
            .iter()
            .filter(|(_, slot)| slot.number.is_some() && !slot.enrolled);
        let mut lapsed: Vec<Enrolment> = lapsed.map(|(id, slot)| slot.enrolment(*id)).collect();
        // In the order in which they came, which is their order at the server.
        lapsed.sort_by_key(|enrolment| enrolment.id);
        lapsed
    }

    /// The subscription was lost: nothing is known of any enrolment.
    pub(crate) fn lapse(&self) {
        let mut state = self.lock();
        for slot in state.slots.values_mut() {
            slot.enrolled = false;
        }
    }

    /// Gives a hint to its stream. One for a stream that is gone tells that its enrolment is still
    /// there; a forged one that it is not: both are withdrawn.
    pub(crate) fn deliver(&self, id: u64, number: &str, lock: &str, place: u32) {
        let waker = {
            let mut state = self.lock();
            match state.slots.get_mut(&id) {
                Some(slot) if slot.lock == lock => {
                    slot.hint = Some(Hint::Free { place });
                    slot.waker.take()
                }
                Some(_) => None,
                None => {
                    if state.withdrawn.len() < MOST_GHOSTS {
                        state.withdrawn.push(Withdrawal {
                            id,
                            lock: lock.to_owned(),
                            number: number.to_owned(),
                        });
                    }
                    self.bell.notify_one();
                    None
                }
            }
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Ends a stream whose enrolment is gone because its process is dead to the server.
    pub(crate) fn end(&self, id: u64) {
        let slot = self.lock().slots.remove(&id);
        slot.and_then(|slot| slot.waker)
            .into_iter()
            .for_each(Waker::wake);
    }

    fn end_process(&self, process: &ProcessHash) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        let of_process = |slot: &Slot| matches!(&slot.watcher, Watcher::Waiter(p) if p == process);
        let ids: Vec<u64> = state
            .slots
            .iter()
            .filter(|(_, slot)| of_process(slot))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            wakers.extend(state.withdraw(id));
        }
        drop(state);
        self.bell.notify_one();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes the withdrawals that are to be sent.
    pub(crate) fn take_withdrawn(&self) -> Vec<Withdrawal> {
        std::mem::take(&mut self.lock().withdrawn)
    }

    /// Gives back what could not be sent.
    pub(crate) fn give_back(&self, withdrawals: Vec<Withdrawal>) {
        self.lock().withdrawn.extend(withdrawals);
    }

    /// Whether anybody watches this lock.
    pub(crate) fn watches(&self, lock: &str) -> bool {
        self.lock().slots.values().any(|slot| slot.lock == lock)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().slots.is_empty()
    }

    /// Waits until there is something for the keeper to do.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it can be called again; nothing is missed.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Calls the keeper.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a stream out, and leaves its withdrawal. One that was never enrolled has none: should
    /// its request still be on its way, its answer finds the stream gone.
    fn withdraw(&mut self, id: u64) -> Option<Waker> {
        let slot = self.slots.remove(&id)?;
        if let Some(number) = slot.number {
            self.withdrawn.push(Withdrawal {
                id,
                lock: slot.lock,
                number,
            });
        }
        slot.waker
    }
}

impl Slot {
    fn enrolment(&self, id: u64) -> Enrolment {
        Enrolment {
            id,
            lock: self.lock.clone(),
            waits: match &self.watcher {
                Watcher::Waiter(process) => Some(process.clone()),
                Watcher::Observer => None,
            },
            former: self.number.clone(),
        }
    }
}

/// The stream of one enrolment. It ends when the enrolment is found gone.
#[derive(Debug)]
pub(crate) struct Hints {
    hub: Arc<Hub>,
    id: u64,
}

impl Stream for Hints {
    type Item = Hint;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        let mut state = self.hub.subscription.slots().lock();
        let Some(slot) = state.slots.get_mut(&self.id) else {
            return Poll::Ready(None);
        };
        if let Some(hint) = slot.hint.take() {
            return Poll::Ready(Some(hint));
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        let slots = self.hub.subscription.slots();
        slots.lock().withdraw(self.id);
        slots.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S10: messages that are forged faster than their ghosts are withdrawn.
    #[test]
    fn a_flood_of_forged_messages_fills_no_memory() {
        let slots = Slots::default();
        for id in 0..100_000 {
            slots.deliver(id, "1", "ns:{k}", 0);
        }
        assert_eq!(slots.take_withdrawn().len(), MOST_GHOSTS);
    }
}
