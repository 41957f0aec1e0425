//! What is on its way back to the store.

use crate::Event;
use crate::incarnation::Tenancy;
use crate::shared::Shared;
use crate::sync::Arc;
use locker_core::backend::Released;
use locker_core::machine::release::Word;
use locker_core::machine::{Loss, LossReason, Release};
use locker_core::{Instant, OwnerHash, StoreTime};
use tokio::sync::oneshot;

/// A lock, or an attempt of unknown outcome, on its way back. Dropped before the end, it goes to
/// the Reporter.
#[derive(Debug)]
pub(crate) struct Departure {
    place: Place,
    /// When the record has run out by itself; zero if there was only an attempt.
    pub(crate) gone_by: Instant,
    pub(crate) unsettled: Option<StoreTime>,
    /// Whether nothing was heard when the store was asked about it the last time.
    pub(crate) is_unheard: bool,
    /// Whether nobody knows of a loss that the store finds: it was held until it departed, and no request
    /// is under way that may have freed it.
    pub(crate) tells_loss: bool,
    /// How far its caller has come with it, and who waits for the Reporter's word.
    ///
    /// Boxed: most never need it, and a guard's release carries the room for it.
    pub(crate) begun: Option<Box<Release>>,
    pub(crate) reply: Option<oneshot::Sender<Word>>,
}

impl Departure {
    pub(crate) fn owner(&self) -> &OwnerHash {
        &self.place.owner
    }

    /// Whether the incarnation that the owner hash names has ended, for ever.
    pub(crate) fn has_ended(&self, now: Instant) -> bool {
        let tenancy = self.place.tenancy.as_ref();
        tenancy.is_none_or(|tenancy| tenancy.has_ended(now))
    }

    /// Tells everybody if the lock was lost before it was given back, by the first word of the store's. It is
    /// told before the lock has left the registry: the events end with the locker.
    pub(crate) fn tell(&mut self, word: &Word) {
        let Ok(found) = word else { return };
        if std::mem::take(&mut self.tells_loss)
            && let Some(loss) = loss_found(found, self.place.shared.time.now())
        {
            let owner = self.place.owner.clone();
            let lost = Event::LostLock { owner, loss };
            self.place.shared.events.send(lost);
        }
    }

    /// Nothing of this owner hash is left at the store.
    pub(crate) fn finish(mut self) {
        if let Some(place) = self.place.pass_on() {
            place.leave();
        }
    }

    /// The Reporter sees to it from here.
    pub(crate) fn hand_over(self) {
        drop(self);
    }
}

/// The loss that is found when a lock is given back which was not known to be lost.
pub(crate) fn loss_found(found: &Released, now: Instant) -> Option<Loss> {
    let reason = match found {
        Released::Done => return None,
        Released::Held(by) => LossReason::TakenOver(by.clone()),
        Released::Absent => LossReason::Vanished,
    };
    let safe_until = now;
    Some(Loss { reason, safe_until })
}

impl Drop for Departure {
    fn drop(&mut self) {
        let Some(place) = self.place.pass_on() else {
            return;
        };
        let shared = Arc::clone(&place.shared);
        let again = Self {
            place,
            gone_by: self.gone_by,
            unsettled: self.unsettled,
            is_unheard: self.is_unheard,
            tells_loss: self.tells_loss,
            begun: self.begun.take(),
            reply: self.reply.take(),
        };
        match shared.registry.hand_over(again) {
            None => shared.bells.departures.notify_one(),
            Some(forgotten) => forgotten.finish(),
        }
    }
}

/// The place of one owner hash in the registry.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u64,
    pub(super) owner: OwnerHash,
    /// Whoever has it has the place: a hand that has passed it on has nothing to do when it is
    /// dropped.
    pub(super) tenancy: Option<Tenancy>,
}

impl Place {
    /// The place for the next hand, once.
    pub(super) fn pass_on(&mut self) -> Option<Self> {
        let tenancy = self.tenancy.take()?;
        Some(Self {
            shared: Arc::clone(&self.shared),
            id: self.id,
            owner: self.owner.clone(),
            tenancy: Some(tenancy),
        })
    }

    pub(super) fn leave(self) {
        self.shared.registry.leave(self.id);
    }

    pub(super) fn depart(self, gone_by: Instant, unsettled: Option<StoreTime>) -> Departure {
        Departure {
            place: self,
            gone_by,
            unsettled,
            is_unheard: false,
            tells_loss: false,
            begun: None,
            reply: None,
        }
    }
}
