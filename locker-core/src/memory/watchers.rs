//! The enrolled waiters and observers of a memory store, in the order in which they came.

use super::state::State;
use crate::backend::{Hint, Watcher};
use crate::identity::{Key, ProcessHash};
use futures_core::Stream;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
pub(super) struct Watchers {
    by_key: HashMap<Key, Vec<Enrolment>>,
    next_id: u64,
}

#[derive(Debug)]
struct Enrolment {
    id: u64,
    watcher: Watcher,
    /// At most one hint waits: a newer one says all that an older one did.
    hint: Option<Hint>,
    waker: Option<Waker>,
}

impl Watchers {
    /// Hints to every watcher of the key; enrolments of dead processes are removed.
    pub(super) fn wake(&mut self, key: &Key, alive: impl Fn(&ProcessHash) -> bool) {
        let Some(enrolments) = self.by_key.get_mut(key) else {
            return;
        };
        let mut place = 0;
        enrolments.retain_mut(|enrolment| {
            let hint = match &enrolment.watcher {
                Watcher::Observer => Hint::Free { place: 0 },
                Watcher::Waiter(process) if alive(process) => {
                    place += 1;
                    Hint::Free { place: place - 1 }
                }
                Watcher::Waiter(_) => {
                    // Its stream has ended: whoever still polls it must come and see that.
                    enrolment.wake();
                    return false;
                }
            };
            enrolment.hint = Some(hint);
            enrolment.wake();
            true
        });
        if enrolments.is_empty() {
            self.by_key.remove(key);
        }
    }

    fn find(&mut self, key: &Key, id: u64) -> Option<&mut Enrolment> {
        self.by_key
            .get_mut(key)?
            .iter_mut()
            .find(|enrolment| enrolment.id == id)
    }
}

impl Enrolment {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The stream of one enrolment. Dropping it withdraws.
#[derive(Debug)]
pub(super) struct Hints {
    state: Arc<Mutex<State>>,
    key: Key,
    id: u64,
}

impl Hints {
    pub(super) fn enrol(state: &Arc<Mutex<State>>, key: &Key, watcher: &Watcher) -> Self {
        let mut locked = state.lock().unwrap_or_else(PoisonError::into_inner);
        let watchers = &mut locked.watchers;
        let id = watchers.next_id;
        watchers.next_id += 1;
        let enrolment = Enrolment {
            id,
            watcher: watcher.clone(),
            hint: None,
            waker: None,
        };
        watchers
            .by_key
            .entry(key.clone())
            .or_default()
            .push(enrolment);
        drop(locked);
        Self {
            state: Arc::clone(state),
            key: key.clone(),
            id,
        }
    }
}

impl Stream for Hints {
    type Item = Hint;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // An enrolment that was removed belongs to a process that is dead to the store.
        let Some(enrolment) = state.watchers.find(&self.key, self.id) else {
            return Poll::Ready(None);
        };
        if let Some(hint) = enrolment.hint.take() {
            return Poll::Ready(Some(hint));
        }
        enrolment.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let watchers = &mut state.watchers;
        if let Some(enrolments) = watchers.by_key.get_mut(&self.key) {
            enrolments.retain(|enrolment| enrolment.id != self.id);
            if enrolments.is_empty() {
                watchers.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Host;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_stream_of_a_dead_waiter_ends_and_says_so() {
        let state = Arc::new(Mutex::new(State::default()));
        let key = Key::new("k").unwrap();
        let process = ProcessHash::new(&Host::new("web-1").unwrap(), 1, 1);
        let mut hints = Hints::enrol(&state, &key, &Watcher::Waiter(process));
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut hints).poll_next(&mut context).is_pending());
        state.lock().unwrap().watchers.wake(&key, |_| false);
        assert!(flag.0.load(Ordering::Relaxed), "nobody would poll it again");
        let next = Pin::new(&mut hints).poll_next(&mut context);
        assert_eq!(next, Poll::Ready(None));
    }
}
