//! Everything this locker has, or may have, at the store.
//!
//! An owner hash is in here from before its first byte is sent until nothing of it is left at the
//! store. It is always in exactly one of three hands:
//!
//! ```text
//!   Attempt  ──granted──▶  Entry (a held lock)  ──▶  Departure  ──confirmed──▶  forgotten
//!      └──────────dropped, unknown──────────────────────▲
//! ```
//!
//! Each hand is a value whose `Drop` passes the owner hash on to the next. So whatever is cancelled
//! or dropped, at whatever point, the Reporter knows what there is to release (S7); nobody has to
//! remember to tell it.

use crate::incarnation::{Incarnation, Tenancy};
use crate::shared::Shared;
use locker_core::machine::{Loss, Tenure};
use locker_core::{Instant, Key, OwnerHash, StoreTime, Token};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// What a locker has, or may have, at the store.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    /// Rung when something leaves the registry.
    pub(crate) left: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    next_id: u64,
    /// Attempts and departures under way: they count, but only their key is of interest.
    under_way: HashMap<u64, Key>,
    held: HashMap<u64, Arc<Entry>>,
    departures: Vec<Departure>,
    /// Whether the Reporter has ended, so that nobody takes departures any more.
    closed: bool,
    next_judgement: Option<Instant>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The locks that are held now.
    pub(crate) fn held(&self) -> Vec<Arc<Entry>> {
        self.lock().held.values().cloned().collect()
    }

    /// Whether nothing is held, being acquired, or on its way back.
    pub(crate) fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.held.is_empty() && inner.under_way.is_empty()
    }

    /// The keys that are held, being acquired, or on their way back.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let inner = self.lock();
        let held = inner.held.values().map(|entry| entry.owner().key());
        let mut keys: Vec<Key> = held.chain(inner.under_way.values()).cloned().collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// What the Reporter is to give back.
    pub(crate) fn take_departures(&self) -> Vec<Departure> {
        std::mem::take(&mut self.lock().departures)
    }

    /// The Reporter has ended: what is on its way back, now or later, is forgotten. It would be kept
    /// for ever, and with it the locker's connections. The store's own net frees it.
    pub(crate) fn close(&self) {
        let left = {
            let mut inner = self.lock();
            inner.closed = true;
            std::mem::take(&mut inner.departures)
        };
        left.into_iter().for_each(Departure::finish);
    }

    /// Hands a departure to the Reporter, or back if there is none any more.
    fn hand_over(&self, departure: Departure) -> Option<Departure> {
        let mut inner = self.lock();
        if inner.closed {
            return Some(departure);
        }
        inner.departures.push(departure);
        None
    }

    /// Judges every held lock, and answers when to do so again.
    pub(crate) fn judge(&self, mut judge: impl FnMut(&Arc<Entry>) -> Instant) -> Instant {
        // The judgement runs outside the lock: it wakes tasks of the user's runtime.
        self.lock().next_judgement = None;
        let next = self
            .held()
            .iter()
            .map(&mut judge)
            .min()
            .unwrap_or(Instant::FAR_FUTURE);
        let mut inner = self.lock();
        // A lock that was added meanwhile has said when it wants to be looked at.
        let next = inner.next_judgement.map_or(next, |added| added.min(next));
        inner.next_judgement = Some(next);
        next
    }

    /// Whether a lock to be looked at then is earlier than all others.
    fn is_earlier(&self, at: Instant) -> bool {
        let mut inner = self.lock();
        let earlier = inner.next_judgement.is_none_or(|next| at < next);
        if earlier {
            inner.next_judgement = Some(at);
        }
        earlier
    }

    fn enter(&self, key: &Key) -> u64 {
        let mut inner = self.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.under_way.insert(id, key.clone());
        id
    }

    fn leave(&self, id: u64) {
        {
            let mut inner = self.lock();
            inner.under_way.remove(&id);
            inner.held.remove(&id);
        }
        self.left.notify_waiters();
        self.left.notify_one();
    }
}

/// An acquisition under way: it exists before the first byte is sent.
#[derive(Debug)]
pub(crate) struct Attempt {
    place: Option<Place>,
    /// The latest `not_after` of a claim that was sent and not answered for certain.
    open: Option<StoreTime>,
}

/// The place of one owner hash in the registry.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    id: u64,
    owner: OwnerHash,
    tenancy: Tenancy,
}

impl Attempt {
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        incarnation: &Arc<Incarnation>,
        owner: OwnerHash,
    ) -> Self {
        let id = shared.registry.enter(owner.key());
        let tenancy = Tenancy::new(Arc::clone(incarnation));
        let place = Place {
            shared: Arc::clone(shared),
            id,
            owner,
            tenancy,
        };
        Self {
            place: Some(place),
            open: None,
        }
    }

    /// Whose attempt it is.
    pub(crate) fn owner(&self) -> Option<&OwnerHash> {
        self.place.as_ref().map(|place| &place.owner)
    }

    /// Notes that a claim is about to be sent. From now on a drop settles it.
    pub(crate) fn sending(&mut self, not_after: StoreTime) {
        self.open = self.open.max(Some(not_after));
    }

    /// Notes what the machine knows about attempts of unknown outcome, after an answer.
    pub(crate) fn known_open(&mut self, unsettled: Option<StoreTime>) {
        self.open = unsettled;
    }

    /// The grant was confirmed: the attempt becomes a held lock. Until then a drop settles the
    /// granted claim; from then on only what was `unsettled` besides it is to be settled.
    pub(crate) fn into_entry(
        mut self,
        token: Token,
        tenure: Arc<Tenure>,
        abort_lead: Option<Duration>,
        unsettled: Option<StoreTime>,
    ) -> Option<Arc<Entry>> {
        let place = self.place.take()?;
        let entry = Arc::new(Entry {
            token,
            tenure,
            abort_lead,
            lost: Notify::new(),
            announced: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            armed: Mutex::new(None),
            id: place.id,
            unsettled,
            tenancy: Mutex::new(Some(place.tenancy)),
        });
        let mut inner = place.shared.registry.lock();
        inner.under_way.remove(&place.id);
        inner.held.insert(place.id, Arc::clone(&entry));
        drop(inner);
        Some(entry)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        match self.open {
            None => place.shared.registry.leave(place.id),
            Some(not_after) => {
                place.depart(Instant::ZERO, Some(not_after)).hand_over();
            }
        }
    }
}

impl Place {
    fn depart(self, gone_by: Instant, unsettled: Option<StoreTime>) -> Departure {
        Departure {
            place: Some(self),
            gone_by,
            unsettled,
            reply: None,
        }
    }
}

/// A held lock.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) token: Token,
    pub(crate) tenure: Arc<Tenure>,
    /// With `OnLost::Abort`: how long before the hard deadline the process ends.
    pub(crate) abort_lead: Option<Duration>,
    /// Rung when the lock is lost.
    pub(crate) lost: Notify,
    announced: AtomicBool,
    /// Whether the Reporter has deleted the record of a lost lock under a job that goes on.
    let_go: AtomicBool,
    armed: Mutex<Option<oneshot::Sender<()>>>,
    id: u64,
    unsettled: Option<StoreTime>,
    tenancy: Mutex<Option<Tenancy>>,
}

impl Entry {
    pub(crate) fn owner(&self) -> &OwnerHash {
        self.tenure.owner()
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Looks at the deadlines; a loss is told to everybody, once.
    pub(crate) fn judge(&self, shared: &Shared) -> Result<Instant, Loss> {
        let judged = self.tenure.judge(shared.time.now());
        if let Err(loss) = &judged {
            self.announce(shared, loss);
        }
        judged
    }

    /// Tells a loss to everybody, once. To have been given back is none: whoever looks at the
    /// deadlines meanwhile finds them closed, and a lock departs before they are.
    pub(crate) fn announce(&self, shared: &Shared, loss: &Loss) {
        if !self.has_departed() {
            self.tell(shared, loss);
        }
    }

    /// Tells a loss that was found when the lock was given back.
    pub(crate) fn tell(&self, shared: &Shared, loss: &Loss) {
        if !self.announced.swap(true, Ordering::AcqRel) {
            let owner = self.owner().clone();
            shared.events.send(crate::Event::LostLock {
                owner,
                loss: loss.clone(),
            });
        }
        self.lost.notify_waiters();
        if self.abort_lead.is_some() {
            shared.executioner.ring();
        }
    }

    /// Waits for the loss.
    pub(crate) async fn lost(&self) -> Loss {
        loop {
            let rung = self.lost.notified();
            if let Some(loss) = self.tenure.loss() {
                return loss.clone();
            }
            rung.await;
        }
    }

    /// Begins to be watched by the Reporter. With `OnLost::Abort` the answer comes when the kernel
    /// timer is armed.
    pub(crate) fn watch(self: &Arc<Self>, shared: &Arc<Shared>) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        if self.abort_lead.is_some() {
            *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            match shared.executioner.start(shared) {
                Ok(()) => shared.executioner.ring(),
                // Nobody will confirm: the lock is given up again.
                Err(_) => drop(
                    self.armed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .take(),
                ),
            }
        } else {
            let _ = sender.send(());
        }
        let next = self.judge(shared).unwrap_or(Instant::ZERO);
        if shared.registry.is_earlier(next) {
            shared.bells.watchdog.notify_one();
        }
        receiver
    }

    /// The kernel timer counts this lock in.
    pub(crate) fn confirm_armed(&self) {
        let armed = self
            .armed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(armed) = armed {
            let _ = armed.send(());
        }
    }

    /// Whether it was given back.
    pub(crate) fn has_departed(&self) -> bool {
        self.tenancy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Whether the record of a lost lock is to be deleted now, under a job that goes on. Yes once.
    pub(crate) fn let_go(&self) -> bool {
        !self.let_go.swap(true, Ordering::AcqRel)
    }

    /// The lock is not held any more: it goes on its way back.
    pub(crate) fn depart(&self, shared: &Arc<Shared>) -> Option<Departure> {
        let tenancy = self
            .tenancy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        let now = shared.time.now();
        self.tenure.close(now);
        {
            let mut inner = shared.registry.lock();
            inner.held.remove(&self.id);
            inner.under_way.insert(self.id, self.owner().key().clone());
        }
        if self.abort_lead.is_some() {
            shared.executioner.ring();
        }
        let place = Place {
            shared: Arc::clone(shared),
            id: self.id,
            owner: self.owner().clone(),
            tenancy,
        };
        Some(place.depart(shared.runs_out_by(now), self.unsettled))
    }
}

/// A lock, or an attempt of unknown outcome, on its way back. Dropped before the end, it goes to
/// the Reporter.
#[derive(Debug)]
pub(crate) struct Departure {
    place: Option<Place>,
    /// When the record has run out by itself; zero if there was only an attempt.
    pub(crate) gone_by: Instant,
    pub(crate) unsettled: Option<StoreTime>,
    /// Who waits for the Reporter's word.
    pub(crate) reply: Option<oneshot::Sender<locker_core::machine::release::End>>,
}

impl Departure {
    pub(crate) fn owner(&self) -> Option<&OwnerHash> {
        self.place.as_ref().map(|place| &place.owner)
    }

    /// Nothing of this owner hash is left at the store.
    pub(crate) fn finish(mut self) {
        if let Some(place) = self.place.take() {
            place.shared.registry.leave(place.id);
        }
    }

    /// The Reporter sees to it from here.
    pub(crate) fn hand_over(self) {
        drop(self);
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else {
            return;
        };
        let shared = Arc::clone(&place.shared);
        let again = Self {
            place: Some(place),
            gone_by: self.gone_by,
            unsettled: self.unsettled,
            reply: self.reply.take(),
        };
        match shared.registry.hand_over(again) {
            None => shared.bells.departures.notify_one(),
            Some(forgotten) => forgotten.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{AcquireOptions, Locker, memory};
    use std::sync::Arc;

    /// L8: a guard that outlives the Reporter keeps nothing alive.
    #[tokio::test]
    async fn what_departs_after_the_reporter_has_ended_is_forgotten() {
        let locker = Locker::builder(memory()).start().await.unwrap();
        let guard = locker.acquire("k", AcquireOptions::new()).await;
        let guard = guard.unwrap().guard().unwrap();
        let shared = Arc::clone(locker.shared());
        shared.registry.close();
        drop(guard);
        assert!(shared.registry.is_empty());
        locker.terminate(shared.timing.start_timeout).await.unwrap();
        drop(locker);
        // The thread of the Reporter drops its share a moment after it has said so.
        for _ in 0..1000 {
            if Arc::strong_count(&shared) == 1 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("{} shares are left", Arc::strong_count(&shared));
    }
}
