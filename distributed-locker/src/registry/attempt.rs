//! An acquisition under way.

use super::departure::Place;
use super::entry::Entry;
use crate::incarnation::{Incarnation, Tenancy};
use crate::shared::Shared;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, Mutex};
use locker_core::machine::Tenure;
use locker_core::{Instant, OwnerHash, StoreTime, Token};
use std::time::Duration;
use tokio::sync::Notify;

/// An acquisition under way: it exists before the first byte is sent.
#[derive(Debug)]
pub(crate) struct Attempt {
    place: Place,
    /// The latest `not_after` of a claim that was sent and not answered for certain.
    open: Option<StoreTime>,
}

impl Attempt {
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        incarnation: &Arc<Incarnation>,
        owner: OwnerHash,
    ) -> Self {
        let place = Place {
            shared: Arc::clone(shared),
            id: shared.registry.enter(owner.key()),
            owner,
            tenancy: Some(Tenancy::new(Arc::clone(incarnation))),
        };
        Self { place, open: None }
    }

    /// Whose attempt it is.
    pub(crate) fn owner(&self) -> &OwnerHash {
        &self.place.owner
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
    ) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            token,
            tenure,
            abort_lead,
            lost: Notify::new(),
            announced: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            unheard: AtomicBool::new(false),
            armed: Mutex::new(None),
            id: self.place.id,
            unsettled,
            tenancy: Mutex::new(self.place.tenancy.take()),
        });
        let mut inner = self.place.shared.registry.lock();
        inner.under_way.remove(&entry.id);
        inner.held.insert(entry.id, Arc::clone(&entry));
        drop(inner);
        entry
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(place) = self.place.pass_on() else {
            return;
        };
        match self.open {
            None => place.leave(),
            Some(not_after) => {
                place.depart(Instant::ZERO, Some(not_after)).hand_over();
            }
        }
    }
}
