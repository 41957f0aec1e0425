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

mod attempt;
mod departure;
mod entry;

pub(crate) use attempt::Attempt;
pub(crate) use departure::{Departure, loss_found};
pub(crate) use entry::Entry;

use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};
use locker_core::{Instant, Key};
use std::collections::HashMap;
use tokio::sync::Notify;

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
