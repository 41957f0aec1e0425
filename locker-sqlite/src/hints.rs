//! The streams of hints of one connection: where a datagram's hint finds its stream, and where a
//! dropped stream leaves its withdrawal until the connection's task can write it.

use futures_core::Stream;
use locker_core::backend::Hint;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// There are withdrawals.
    withdrawn: Notify,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<i64, Slot>,
    withdrawn: Vec<i64>,
}

/// At most one hint waits: a newer one says all that an older one did.
#[derive(Debug, Default)]
struct Slot {
    hint: Option<Hint>,
    waker: Option<Waker>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            withdrawn: Notify::new(),
        }
    }

    /// The stream of the enrolment `id`. Dropping it withdraws.
    pub(crate) fn open(self: &Arc<Self>, id: i64) -> Hints {
        self.lock().slots.insert(id, Slot::default());
        Hints {
            hub: Arc::clone(self),
            id,
        }
    }

    /// Gives a hint to its stream; one for nobody is dropped, as forged ones are.
    pub(crate) fn deliver(&self, id: i64, hint: Hint) {
        let waker = {
            let mut state = self.lock();
            let Some(slot) = state.slots.get_mut(&id) else {
                return;
            };
            slot.hint = Some(hint);
            slot.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Ends a stream whose enrolment is gone.
    pub(crate) fn end(&self, id: i64) {
        let slot = self.lock().slots.remove(&id);
        slot.and_then(|slot| slot.waker)
            .into_iter()
            .for_each(Waker::wake);
    }

    /// Ends all streams: their enrolments are gone with the file or with the connection.
    pub(crate) fn end_all(&self) {
        let slots = {
            let mut state = self.lock();
            state.withdrawn.clear();
            std::mem::take(&mut state.slots)
        };
        let wakers = slots.into_values().filter_map(|slot| slot.waker);
        wakers.for_each(Waker::wake);
    }

    /// Waits until there are withdrawals to be written.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken; dropped, it can be called again.
    pub(crate) async fn withdrawals(&self) {
        self.withdrawn.notified().await;
    }

    /// Whether withdrawals are waiting to be written.
    pub(crate) fn has_withdrawn(&self) -> bool {
        !self.lock().withdrawn.is_empty()
    }

    /// Takes the withdrawals that are to be written.
    pub(crate) fn take_withdrawn(&self) -> Vec<i64> {
        std::mem::take(&mut self.lock().withdrawn)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream of one enrolment. It ends when the enrolment is found gone.
#[derive(Debug)]
pub(crate) struct Hints {
    hub: Arc<Hub>,
    id: i64,
}

impl Stream for Hints {
    type Item = Hint;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        let mut state = self.hub.lock();
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
        let mut state = self.hub.lock();
        if state.slots.remove(&self.id).is_some() {
            state.withdrawn.push(self.id);
            drop(state);
            self.hub.withdrawn.notify_one();
        }
    }
}
