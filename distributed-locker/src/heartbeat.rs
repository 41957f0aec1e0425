//! What a job gets: a way to say that it lives, and to learn that it should stop.

use crate::error::Interrupted;
use crate::registry::Entry;
use crate::shared::Shared;
use locker_core::machine::{Loss, LossReason};
use locker_core::{Instant, OwnerHash, Token};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a job gets to say that it lives, and to learn that it should stop.
///
/// Clones speak for the same lock. A heartbeat costs a reading of the clock and a few atomics: no
/// I/O, no waiting, so call it wherever you like, also in a tight loop.
#[derive(Clone)]
pub struct Heartbeater {
    lock: Option<(Arc<Shared>, Arc<Entry>)>,
    on_every: Option<Arc<OnEvery>>,
}

struct OnEvery {
    every: Duration,
    next: AtomicU64,
    call: Mutex<Box<dyn FnMut() + Send>>,
}

impl Heartbeater {
    pub(crate) fn new(shared: Arc<Shared>, entry: Arc<Entry>) -> Self {
        Self {
            lock: Some((shared, entry)),
            on_every: None,
        }
    }

    /// A heartbeater without a lock: it is never interrupted. For running a job outside of any
    /// locker, in a test or a tool.
    pub fn noop() -> Self {
        Self {
            lock: None,
            on_every: None,
        }
    }

    /// The same heartbeater that also calls `call` from a heartbeat, when `every` has passed since
    /// the last call: for progress reports and the like. It is called on the job's own thread.
    #[must_use]
    pub fn with_on_every(mut self, every: Duration, call: impl FnMut() + Send + 'static) -> Self {
        let next = AtomicU64::new(0);
        let call: Mutex<Box<dyn FnMut() + Send>> = Mutex::new(Box::new(call));
        self.on_every = Some(Arc::new(OnEvery { every, next, call }));
        self
    }

    /// Says that the job lives, and asks whether it should go on.
    ///
    /// With [`HeartbeatPolicy::Required`](crate::HeartbeatPolicy::Required), the default, a job
    /// must do this at least once per lock TTL (5 min); twice as often is prudent.
    ///
    /// # Errors
    ///
    /// [`Interrupted::Lost`] when the lock is lost: stop at once, and write nothing more.
    /// [`Interrupted::Draining`] when the locker wants to end: the lock is still held; finish soon.
    pub fn heartbeat(&self) -> Result<(), Interrupted> {
        let Some((shared, entry)) = &self.lock else {
            return Ok(());
        };
        let now = beat(shared, entry)?;
        if let Some(on_every) = &self.on_every {
            on_every.beat(now);
        }
        refuse_if_draining(shared)
    }

    /// Sleeps, beating all the while, until the time is over or the job should stop.
    ///
    /// # Errors
    ///
    /// As [`heartbeat`](Self::heartbeat), as soon as it happens.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any point.
    pub async fn sleep(&self, duration: Duration) -> Result<(), Interrupted> {
        let Some((shared, _)) = &self.lock else {
            tokio::time::sleep(duration).await;
            return Ok(());
        };
        let until = shared.time.now() + duration;
        let pace = (shared.timing.lock_ttl / 4).min(Duration::from_secs(1));
        loop {
            self.heartbeat()?;
            let now = shared.time.now();
            if now >= until {
                return Ok(());
            }
            let drained = shared.bells.drained.notified();
            tokio::select! {
                biased;
                loss = self.lost() => return Err(Interrupted::Lost(loss)),
                () = drained => {}
                () = shared.time.sleep_until(until.min(now + pace)) => {}
            }
        }
    }

    /// Whether the lock is held now.
    pub fn is_valid(&self) -> bool {
        match &self.lock {
            None => true,
            Some((shared, entry)) => entry.tenure.is_valid(shared.time.now()),
        }
    }

    /// Waits until the lock is lost; for ever without a lock. For the parts of a job that dropping
    /// its future does not stop: blocking closures and tasks it has spawned.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and called again.
    pub async fn lost(&self) -> Loss {
        match &self.lock {
            None => std::future::pending().await,
            Some((shared, entry)) => entry.wait_lost(shared).await,
        }
    }

    /// The fencing token of the grant; `None` without a lock.
    pub fn token(&self) -> Option<Token> {
        self.lock.as_ref().map(|(_, entry)| entry.token)
    }

    /// The identity of the acquisition; `None` without a lock.
    pub fn owner_hash(&self) -> Option<&OwnerHash> {
        self.lock.as_ref().map(|(_, entry)| entry.owner())
    }
}

/// A heartbeat of whoever speaks for the lock. Answers when it was.
pub(crate) fn beat(shared: &Shared, entry: &Entry) -> Result<Instant, Loss> {
    let now = shared.time.now();
    // Judged first: a job that does nothing but beat hears of its loss a stop budget before the
    // end, whatever the Reporter is doing.
    let judged = entry.tenure.judge(now).and_then(|_| {
        if entry.tenure.beat(now) {
            Ok(now)
        } else {
            Err(entry.tenure.lose(LossReason::Expired, now))
        }
    });
    judged.inspect_err(|loss| entry.announce(shared, loss))
}

/// Whether the locker lets its jobs go on.
pub(crate) fn refuse_if_draining(shared: &Shared) -> Result<(), Interrupted> {
    match shared.draining.get() {
        None => Ok(()),
        Some(reason) => Err(Interrupted::Draining(reason.clone())),
    }
}

impl OnEvery {
    fn beat(&self, now: Instant) {
        let next = self.next.load(Ordering::Acquire);
        let due = now.as_nanos() >= next;
        let after = (now + self.every).as_nanos();
        // Of several beats at the same time one calls.
        if due
            && self
                .next
                .compare_exchange(next, after, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        {
            let mut call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
            call();
        }
    }
}

impl fmt::Debug for Heartbeater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeater")
            .field("owner", &self.owner_hash())
            .finish_non_exhaustive()
    }
}
