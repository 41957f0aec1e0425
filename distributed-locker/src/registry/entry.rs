//! A held lock, as the Reporter and its guard share it.

use super::departure::{Departure, Place};
use crate::incarnation::Tenancy;
use crate::shared::Shared;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, PoisonError};
use locker_core::machine::{Loss, Tenure};
use locker_core::{Instant, OwnerHash, StoreTime, Token};
use std::io;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// A held lock.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) token: Token,
    pub(crate) tenure: Arc<Tenure>,
    /// With `OnLost::Abort`: how long before the hard deadline the process ends.
    pub(crate) abort_lead: Option<Duration>,
    /// Rung when the lock is lost or given back.
    pub(crate) lost: Notify,
    pub(super) announced: AtomicBool,
    /// Whether the Reporter has deleted the record of a lost lock under a job that goes on.
    pub(super) let_go: AtomicBool,
    /// Whether nothing was heard when the store was asked about it the last time.
    pub(super) unheard: AtomicBool,
    pub(super) armed: Mutex<Option<oneshot::Sender<io::Result<()>>>>,
    pub(super) id: u64,
    pub(super) unsettled: Option<StoreTime>,
    pub(super) tenancy: Mutex<Option<Tenancy>>,
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
    /// deadlines meanwhile finds them closed, and a lock departs before they are. Those who wait for
    /// its end are woken by its departure.
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

    /// Nobody has had it, so nobody has lost it, whatever becomes of it.
    pub(crate) fn tell_nobody(&self) {
        self.announced.store(true, Ordering::Release);
    }

    /// Waits for the loss.
    async fn lost(&self) -> Loss {
        loop {
            let rung = self.lost.notified();
            if let Some(loss) = self.tenure.loss() {
                return loss.clone();
            }
            rung.await;
        }
    }

    /// Waits for a loss on the caller's runtime, beside the Reporter: it comes in time even when the
    /// Reporter is stalled.
    pub(crate) async fn wait_lost(&self, shared: &Shared) -> Loss {
        loop {
            match self.judge(shared) {
                Err(loss) => return loss,
                Ok(look_again) => tokio::select! {
                    biased;
                    loss = self.lost() => return loss,
                    () = shared.time.sleep_until(look_again) => {}
                },
            }
        }
    }

    /// Begins to be watched by the Reporter. With `OnLost::Abort` there is an answer to wait for: the
    /// kernel timer is armed, or was refused.
    pub(crate) fn watch(&self, shared: &Arc<Shared>) -> Option<oneshot::Receiver<io::Result<()>>> {
        let answer = self.abort_lead.map(|_| {
            let (sender, receiver) = oneshot::channel();
            *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            match shared.executioner.start(shared) {
                Ok(()) => shared.executioner.ring(),
                Err(error) => self.tell_armed(Err(error)),
            }
            receiver
        });
        let next = self.judge(shared).unwrap_or(Instant::ZERO);
        if shared.registry.is_earlier(next) {
            shared.bells.watchdog.notify_one();
        }
        answer
    }

    /// Whether the kernel timer counts this lock in: tells who waits for that.
    pub(crate) fn tell_armed(&self, outcome: io::Result<()>) {
        let armed = self
            .armed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(armed) = armed {
            let _ = armed.send(outcome);
        }
    }

    /// Whether it was given back.
    pub(crate) fn has_departed(&self) -> bool {
        self.tenancy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Whether nothing was heard when the store was asked about it the last time.
    pub(crate) fn is_unheard(&self) -> bool {
        self.unheard.load(Ordering::Relaxed)
    }

    /// The store was asked about it.
    pub(crate) fn was_asked(&self, is_unheard: bool) {
        self.unheard.store(is_unheard, Ordering::Relaxed);
    }

    /// Whether the record of a lost lock is to be deleted now, under a job that goes on. Yes once.
    pub(crate) fn let_go(&self) -> bool {
        !self.let_go.swap(true, Ordering::AcqRel)
    }

    /// The lock is not held any more: it goes on its way back. With the loss, if it was lost before.
    pub(crate) fn depart(&self, shared: &Arc<Shared>) -> Option<(Departure, Option<Loss>)> {
        let tenancy = self
            .tenancy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        let now = shared.time.now();
        let loss = self.tenure.close(now).err();
        match &loss {
            // Nobody may have looked at it since it ran out.
            Some(loss) => self.tell(shared, loss),
            // The next owner may be there in a moment: what the job has left behind has to stop now.
            None => self.lost.notify_waiters(),
        }
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
            tenancy: Some(tenancy),
        };
        let mut departure = place.depart(shared.runs_out_by(now), self.unsettled);
        departure.is_unheard = self.is_unheard();
        departure.tells_loss = !self.announced.load(Ordering::Acquire);
        Some((departure, loss))
    }
}
