//! The streams of hints of one connection, and where a message of the server finds them.

use futures_core::Stream;
use locker_core::Key;
use locker_core::backend::{Hint, Watcher};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// Who watches which key under which number.
#[derive(Debug, Clone)]
pub(crate) struct Enrolment {
    pub(crate) key: Key,
    pub(crate) id: i64,
    /// Which of the enrolments of this locker it is: of two that one process has for one key, the
    /// later one counts.
    pub(crate) turn: i64,
    pub(crate) watcher: Watcher,
}

#[derive(Debug)]
pub(crate) struct Hub {
    slots: Mutex<HashMap<i64, Slot>>,
    debts: Arc<Debts>,
}

/// Enrolments whose streams are gone, and whose rows may still be there.
///
/// All connections of one locker share them: what could not be withdrawn on one is withdrawn on the
/// next. A living process must not stand in a line that it has left, because each time that the lock
/// goes, everybody behind it waits for its turn to pass.
#[derive(Debug, Default)]
pub(crate) struct Debts {
    owed: Mutex<Vec<Enrolment>>,
    news: Notify,
    /// How many enrolments this locker has asked for.
    turns: AtomicI64,
}

impl Debts {
    /// Which enrolment of this locker the next one is.
    pub(crate) fn next_turn(&self) -> i64 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    fn owe(&self, enrolment: Enrolment) {
        self.owed().push(enrolment);
        self.news.notify_one();
    }

    /// Resolves when something has become owed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is missed when it is dropped.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// What is owed, to be paid now; `None` when it is nothing.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Taken> {
        let enrolments = std::mem::take(&mut *self.owed());
        (!enrolments.is_empty()).then(|| Taken {
            enrolments,
            debts: Arc::clone(self),
        })
    }

    fn owed(&self) -> MutexGuard<'_, Vec<Enrolment>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is being withdrawn. Dropped, it is owed again.
#[derive(Debug)]
pub(crate) struct Taken {
    enrolments: Vec<Enrolment>,
    debts: Arc<Debts>,
}

impl Taken {
    pub(crate) fn enrolments(&self) -> &[Enrolment] {
        &self.enrolments
    }

    pub(crate) fn paid(mut self) {
        self.enrolments.clear();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Without news: what has just failed is tried again with the next one, or in the next round.
        self.debts.owed().append(&mut self.enrolments);
    }
}

/// At most one hint waits: a newer one says all that an older one did.
#[derive(Debug)]
struct Slot {
    enrolment: Enrolment,
    /// Whether there may be a row of it.
    written: bool,
    hint: Option<Hint>,
    waker: Option<Waker>,
}

impl Hub {
    /// An empty hub, whose dropped streams become owed.
    pub(crate) fn new(debts: Arc<Debts>) -> Self {
        Self {
            slots: Mutex::default(),
            debts,
        }
    }

    /// The stream of an enrolment, which may be written afterwards: what is told in between is not
    /// missed. Dropping it withdraws.
    pub(crate) fn open(self: &Arc<Self>, enrolment: Enrolment) -> Hints {
        let id = enrolment.id;
        let slot = Slot {
            enrolment,
            written: false,
            hint: None,
            waker: None,
        };
        self.lock().insert(id, slot);
        Hints {
            hub: Arc::clone(self),
            id,
        }
    }

    /// To be asked before an enrolment is sent: whether anybody still wants it. From then on its stream
    /// leaves a debt.
    pub(crate) fn is_to_be_written(&self, id: i64) -> bool {
        let mut slots = self.lock();
        let slot = slots.get_mut(&id);
        slot.map(|slot| slot.written = true).is_some()
    }

    /// What was enrolled for a stream that has gone is owed.
    pub(crate) fn owe_unless_open(&self, enrolment: Enrolment) {
        if !self.lock().contains_key(&enrolment.id) {
            self.debts.owe(enrolment);
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
    pub(crate) fn end(&self, id: i64) {
        let slot = self.lock().remove(&id);
        slot.and_then(|slot| slot.waker)
            .into_iter()
            .for_each(Waker::wake);
    }

    /// Ends the stream of an enrolment that could not be written again. The former one may be there.
    pub(crate) fn give_up(&self, id: i64) {
        let slot = self.lock().remove(&id);
        if let Some(slot) = slot {
            self.leave(slot.enrolment, slot.written);
            slot.waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Ends all streams: nobody listens for them any more.
    pub(crate) fn end_all(&self) {
        let slots = std::mem::take(&mut *self.lock());
        for slot in slots.into_values() {
            self.leave(slot.enrolment, slot.written);
            slot.waker.into_iter().for_each(Waker::wake);
        }
    }

    /// An enrolment whose stream is gone. Where none was ever sent nothing is owed: an outage that is
    /// waited out must not leave one for every try.
    fn leave(&self, enrolment: Enrolment, written: bool) {
        if written {
            self.debts.owe(enrolment);
        }
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
            self.hub.leave(slot.enrolment, slot.written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    fn hub() -> (Arc<Hub>, Arc<Debts>) {
        let debts = Arc::new(Debts::default());
        (Arc::new(Hub::new(Arc::clone(&debts))), debts)
    }

    fn owed(debts: &Arc<Debts>) -> Vec<i64> {
        let taken = debts.take();
        let enrolments = taken.iter().flat_map(Taken::enrolments);
        enrolments.map(|enrolment| enrolment.id).collect()
    }

    fn enrolment(id: i64) -> Enrolment {
        Enrolment {
            key: Key::new("k").unwrap(),
            id,
            turn: id,
            watcher: Watcher::Observer,
        }
    }

    fn hint(hints: &mut Hints) -> Poll<Option<Hint>> {
        let next = hints.next().now_or_never();
        next.map_or(Poll::Pending, Poll::Ready)
    }

    #[test]
    fn waiters_hear_their_places_and_observers_have_none() {
        let (hub, _debts) = hub();
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
        let (hub, _debts) = hub();
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
        let (hub, debts) = hub();
        let mut hints = hub.open(enrolment(7));
        hub.hear("gone 6 7");
        assert_eq!(hint(&mut hints), Poll::Ready(None));
        drop(hints);
        assert!(debts.take().is_none());
        let hints = hub.open(enrolment(8));
        assert!(hub.is_to_be_written(8));
        drop(hints);
        assert_eq!(owed(&debts), [8]);
    }

    #[test]
    fn what_was_enrolled_is_owed_until_it_is_paid() {
        let (hub, debts) = hub();
        let mut hints = hub.open(enrolment(7));
        assert!(hub.is_to_be_written(7));
        hub.end_all();
        assert_eq!(hint(&mut hints), Poll::Ready(None));
        drop(hints);
        assert_eq!(owed(&debts), [7], "once");
        assert_eq!(owed(&debts), [7], "it was not paid");
        debts.take().unwrap().paid();
        assert!(debts.take().is_none());
    }

    #[test]
    fn what_was_never_sent_is_not_owed() {
        let (hub, debts) = hub();
        drop(hub.open(enrolment(7)));
        let _open = hub.open(enrolment(8));
        hub.end_all();
        assert!(debts.take().is_none());
        assert!(!hub.is_to_be_written(7));
    }
}
