//! The streams of hints of one connection, and where a message of the server finds them.

use futures_core::Stream;
use locker_core::Key;
use locker_core::backend::{Hint, Watcher};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::mpsc;

/// Who watches which key under which number.
#[derive(Debug, Clone)]
pub(crate) struct Enrolment {
    pub(crate) key: Key,
    pub(crate) id: i64,
    pub(crate) watcher: Watcher,
}

#[derive(Debug)]
pub(crate) struct Hub {
    slots: Mutex<HashMap<i64, Slot>>,
    /// Enrolments whose streams were dropped.
    withdrawn: mpsc::UnboundedSender<Enrolment>,
}

/// At most one hint waits: a newer one says all that an older one did.
#[derive(Debug)]
struct Slot {
    enrolment: Enrolment,
    hint: Option<Hint>,
    waker: Option<Waker>,
}

impl Hub {
    /// An empty hub that tells of dropped streams on this channel.
    pub(crate) fn new(withdrawn: mpsc::UnboundedSender<Enrolment>) -> Self {
        Self {
            slots: Mutex::default(),
            withdrawn,
        }
    }

    /// The stream of an enrolment, which may be written afterwards: what is told in between is not
    /// missed. Dropping it withdraws.
    pub(crate) fn open(self: &Arc<Self>, enrolment: Enrolment) -> Hints {
        let id = enrolment.id;
        let slot = Slot {
            enrolment,
            hint: None,
            waker: None,
        };
        self.lock().insert(id, slot);
        Hints {
            hub: Arc::clone(self),
            id,
        }
    }

    /// Everything that is enrolled.
    pub(crate) fn enrolments(&self) -> Vec<Enrolment> {
        let slots = self.lock();
        slots.values().map(|slot| slot.enrolment.clone()).collect()
    }

    /// Reads a message of the server. It may be anybody's: what makes no sense is dropped, and a
    /// number that is nobody's here is somebody else's.
    pub(crate) fn hear(&self, message: &str) {
        let mut words = message.split(' ');
        let kind = words.next();
        let first = if kind == Some("free") {
            words.next().and_then(|place| place.parse().ok())
        } else {
            Some(0_u32)
        };
        let Some(first) = first else { return };
        let ids = words.filter_map(|id| id.parse().ok());
        match kind {
            Some("free") => ids.zip(first..).for_each(|(id, place)| {
                self.deliver(id, Hint::Free { place });
            }),
            Some("look") => ids.for_each(|id| self.deliver(id, Hint::Free { place: 0 })),
            Some("gone") => ids.for_each(|id| self.end(id)),
            _ => {}
        }
    }

    /// The same hint to every stream.
    pub(crate) fn deliver_to_all(&self, hint: Hint) {
        let ids: Vec<i64> = self.lock().keys().copied().collect();
        for id in ids {
            self.deliver(id, hint);
        }
    }

    fn deliver(&self, id: i64, hint: Hint) {
        let waker = {
            let mut slots = self.lock();
            let Some(slot) = slots.get_mut(&id) else {
                return;
            };
            slot.hint = Some(hint);
            slot.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Ends the stream of an enrolment that the store has removed.
    fn end(&self, id: i64) {
        let slot = self.lock().remove(&id);
        slot.and_then(|slot| slot.waker)
            .into_iter()
            .for_each(Waker::wake);
    }

    /// Ends all streams: nobody listens for them any more.
    pub(crate) fn end_all(&self) {
        let slots = std::mem::take(&mut *self.lock());
        let wakers = slots.into_values().filter_map(|slot| slot.waker);
        wakers.for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream of one enrolment. It ends when the enrolment is gone.
#[derive(Debug)]
pub(crate) struct Hints {
    hub: Arc<Hub>,
    id: i64,
}

impl Stream for Hints {
    type Item = Hint;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        let mut slots = self.hub.lock();
        let Some(slot) = slots.get_mut(&self.id) else {
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
        let slot = self.hub.lock().remove(&self.id);
        if let Some(slot) = slot {
            // If nobody listens any more, the process record's end withdraws it.
            self.hub.withdrawn.send(slot.enrolment).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    fn hub() -> (Arc<Hub>, mpsc::UnboundedReceiver<Enrolment>) {
        let (withdrawn, receiver) = mpsc::unbounded_channel();
        (Arc::new(Hub::new(withdrawn)), receiver)
    }

    fn enrolment(id: i64) -> Enrolment {
        Enrolment {
            key: Key::new("k").unwrap(),
            id,
            watcher: Watcher::Observer,
        }
    }

    fn hint(hints: &mut Hints) -> Poll<Option<Hint>> {
        let next = hints.next().now_or_never();
        next.map_or(Poll::Pending, Poll::Ready)
    }

    #[test]
    fn waiters_hear_their_places_and_observers_have_none() {
        let (hub, _withdrawn) = hub();
        let mut hints: Vec<Hints> = [7, 8, 9].map(|id| hub.open(enrolment(id))).into();
        hub.hear("free 300 9 4 8");
        hub.hear("look 7");
        let heard: Vec<_> = hints.iter_mut().map(hint).collect();
        let place = |place| Poll::Ready(Some(Hint::Free { place }));
        assert_eq!(heard, [place(0), place(302), place(300)]);
    }

    /// S10: anybody may send on the channel.
    #[test]
    fn messages_that_make_no_sense_do_nothing() {
        let (hub, _withdrawn) = hub();
        let mut hints = hub.open(enrolment(7));
        for nonsense in [
            "",
            "free",
            "free 7",
            "free x 7",
            "free -1 7",
            "look",
            "look x",
            "gone",
            "gone x",
            "7",
            "FREE 0 7",
            "free 99999999999 7",
            "\u{0}",
        ] {
            hub.hear(nonsense);
            assert_eq!(hint(&mut hints), Poll::Pending, "{nonsense:?}");
        }
    }

    #[test]
    fn a_stream_whose_enrolment_is_gone_ends_and_withdraws_nothing() {
        let (hub, mut withdrawn) = hub();
        let mut hints = hub.open(enrolment(7));
        hub.hear("gone 6 7");
        assert_eq!(hint(&mut hints), Poll::Ready(None));
        drop(hints);
        assert!(withdrawn.try_recv().is_err());
        drop(hub.open(enrolment(8)));
        assert_eq!(withdrawn.try_recv().unwrap().id, 8);
    }
}
