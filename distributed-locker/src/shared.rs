//! What the callers and the Reporter of one locker share.

use crate::error::{NotRunning, TerminateError};
use crate::events::{EventSender, ReporterEvent};
use crate::executioner::Executioner;
use crate::forked::MadeIn;
use crate::incarnation::Incarnation;
use crate::link::Link;
use crate::queue::Queues;
use crate::registry::Registry;
use crate::store_clock::WatchedClock;
use crate::time::Time;
use locker_core::backend::{KeptBy, Limits, Reply};
use locker_core::time::StoreClock;
use locker_core::{BackendError, Host, Instant, ProcessHash, Timing};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What the callers and the Reporter of one locker share.
pub(crate) struct Shared {
    pub(crate) time: Time,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) host: Host,
    /// The process that started the locker.
    pub(crate) made_in: MadeIn,
    /// Where the grid of extends and checks begins.
    pub(crate) origin: Instant,
    pub(crate) caller: Link,
    pub(crate) registry: Registry,
    pub(crate) queues: Queues,
    pub(crate) life: watch::Sender<Life>,
    pub(crate) events: EventSender,
    pub(crate) bells: Bells,
    pub(crate) executioner: Executioner,
    pub(crate) draining: OnceLock<String>,
    pub(crate) lose_on_pause: bool,
    not_retired: Mutex<Option<BackendError>>,
    store_clock: Mutex<WatchedClock>,
    next_seq: AtomicU64,
}

/// Whoever prints something of the user's that has this in it prints nothing of it: no lock of the
/// Reporter's may be held while the user's writer stands still.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// What wakes the loops of the Reporter.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    pub(crate) watchdog: Notify,
    pub(crate) departures: Notify,
    /// Rung for the callers when draining begins.
    pub(crate) drained: Notify,
    /// Draining has begun, or something left the registry while draining.
    pub(crate) reports: Notify,
}

/// How the process stands at the store.
#[derive(Debug, Clone)]
pub(crate) enum Life {
    /// No report has been confirmed, or the last incarnation has ended. The text is why.
    Unborn(Option<Arc<BackendError>>),
    /// It lives.
    Alive(Arc<Incarnation>),
    /// The Reporter has ended, for ever.
    Ended(Ending),
}

/// How the Reporter ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// No record of the last incarnation is left.
    Gone,
    /// The store has not confirmed that: a record may be left, which runs out by itself.
    Unconfirmed,
    /// By a panic.
    Crashed,
}

impl Shared {
    pub(crate) fn new(
        time: Time,
        timing: Timing,
        limits: Limits,
        host: Host,
        caller: Link,
        events: EventSender,
    ) -> Self {
        let origin = time.now();
        Self {
            time,
            timing,
            limits,
            host,
            made_in: MadeIn::this_process(),
            origin,
            caller,
            registry: Registry::default(),
            queues: Queues::default(),
            life: watch::Sender::new(Life::Unborn(None)),
            events,
            bells: Bells::default(),
            executioner: Executioner::default(),
            draining: OnceLock::new(),
            lose_on_pause: false,
            not_retired: Mutex::default(),
            store_clock: Mutex::default(),
            next_seq: AtomicU64::new(0),
        }
    }

    /// A number that no other acquisition of this locker has.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq.fetch_add(1, Ordering::Relaxed)
    }

    /// When a record that was last written before `now` has run out by itself, by the owner's
    /// clock and whatever the drift. Where the Reporter keeps the TTL that is never: the record
    /// lasts as long as this process.
    pub(crate) fn runs_out_by(&self, now: Instant) -> Instant {
        if self.limits.lock_ttl_kept_by == KeptBy::Reporter {
            return Instant::FAR_FUTURE;
        }
        let drift = self.timing.lock_ttl * self.timing.drift_permille / 500;
        now + self.timing.lock_ttl + drift + self.timing.not_after_patience()
    }

    /// Notes the store's time in the answer to what was sent then; a jump of it is an event.
    pub(crate) fn heard<T>(&self, sent: Instant, reply: &Reply<T>) {
        let Some(told) = reply.store_time else { return };
        let now = self.time.now();
        let jump = self.lock_clock().hear(sent, told, now, &self.timing);
        if let Some(jump) = jump {
            self.events.report(ReporterEvent::StoreClockJumped(jump));
        }
    }

    /// What is known about the store's clock.
    pub(crate) fn store_clock(&self) -> StoreClock {
        self.lock_clock().clock
    }

    fn lock_clock(&self) -> MutexGuard<'_, WatchedClock> {
        self.store_clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The living incarnation, waited for until `deadline`.
    ///
    /// "Living" means that its last report is recent enough that a lock granted now would not have
    /// to be given up at once.
    pub(crate) async fn incarnation(
        &self,
        deadline: Instant,
    ) -> Result<Arc<Incarnation>, NotRunning> {
        let mut life = self.life.subscribe();
        let found = async {
            loop {
                // Seen before it is looked at: what changes meanwhile is another round.
                let ended = matches!(&*life.borrow_and_update(), Life::Ended(_));
                if let Some(incarnation) = self.living_incarnation() {
                    return Ok(incarnation);
                }
                if ended {
                    return Err(NotRunning::Ended);
                }
                // An incarnation becomes recent by a report, which is not a change of this value.
                let look_again = self.time.now() + self.timing.retry_after;
                tokio::select! {
                    changed = life.changed() => changed.map_err(|_| NotRunning::Ended)?,
                    () = self.time.sleep_until(look_again) => {}
                }
            }
        };
        tokio::select! {
            biased;
            found = found => found,
            () = self.time.sleep_until(deadline) => Err(self.why_not_running()),
        }
    }

    /// Drains, and waits until every lock has been released and the store has confirmed that the
    /// process's record is gone.
    pub(crate) async fn terminate(&self, why: &str, grace: Duration) -> Result<(), TerminateError> {
        // A child would wait for locks that are its parent's to release.
        if self.is_forked() {
            return Err(TerminateError::Forked);
        }
        // What has ended says so, and takes no work anyway.
        if !matches!(*self.life.borrow(), Life::Ended(_)) {
            self.drain(why.to_owned());
        }
        let deadline = self.time.now() + grace;
        let emptied = async {
            loop {
                let rung = self.registry.left.notified();
                if self.registry.is_empty() {
                    return;
                }
                rung.await;
            }
        };
        let emptied = async {
            tokio::select! {
                () = emptied => {}
                // Whatever is held is lost, and nobody gives it back.
                Ending::Crashed = self.ended() => {}
            }
        };
        if self.time.timeout_at(deadline, emptied).await.is_none() {
            let keys = self.registry.keys();
            // The last one may have left in this moment.
            if !keys.is_empty() {
                return Err(TerminateError::StillRunning { keys });
            }
        }
        match self.time.timeout_at(deadline, self.ended()).await {
            Some(Ending::Gone) => Ok(()),
            Some(Ending::Crashed) => Err(TerminateError::Abandoned),
            Some(Ending::Unconfirmed) | None => {
                let error = self.not_retired().clone();
                Err(TerminateError::Unconfirmed(error))
            }
        }
    }

    /// How the locker has ended, when it has.
    pub(crate) async fn ended(&self) -> Ending {
        let mut life = self.life.subscribe();
        loop {
            if let Life::Ended(ending) = &*life.borrow_and_update() {
                return *ending;
            }
            // The sender is in our own hands.
            let _ = life.changed().await;
        }
    }

    /// The living incarnation, if there is one now.
    pub(crate) fn living_incarnation(&self) -> Option<Arc<Incarnation>> {
        match &*self.life.borrow() {
            Life::Alive(incarnation) if self.is_recent(incarnation) => {
                Some(Arc::clone(incarnation))
            }
            Life::Alive(_) | Life::Unborn(_) | Life::Ended(_) => None,
        }
    }

    fn is_recent(&self, incarnation: &Incarnation) -> bool {
        let now = self.time.now();
        incarnation.is_alive(now)
            && incarnation
                .deadline
                .get()
                .is_some_and(|hard| now < self.timing.soft(hard))
    }

    fn why_not_running(&self) -> NotRunning {
        match &*self.life.borrow() {
            Life::Unborn(Some(error)) => NotRunning::Unreported(Some(Arc::clone(error))),
            Life::Unborn(None) | Life::Alive(_) => NotRunning::Unreported(None),
            Life::Ended(_) => NotRunning::Ended,
        }
    }

    /// The hash of the living incarnation.
    pub(crate) fn process_hash(&self) -> Option<ProcessHash> {
        if self.is_forked() {
            return None;
        }
        match &*self.life.borrow() {
            Life::Alive(incarnation) if incarnation.is_alive(self.time.now()) => {
                Some(incarnation.process.clone())
            }
            Life::Alive(_) | Life::Unborn(_) | Life::Ended(_) => None,
        }
    }

    /// Why the process's record is not confirmed as gone, if the store has said so.
    pub(crate) fn not_retired(&self) -> MutexGuard<'_, Option<BackendError>> {
        self.not_retired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is a forked child of the process that started the locker.
    pub(crate) fn is_forked(&self) -> bool {
        self.made_in.is_elsewhere()
    }

    /// Refuses new acquisitions from now on, and tells the jobs. The first reason counts.
    pub(crate) fn drain(&self, reason: String) {
        // The jobs of a forked child's parent are none of its business.
        if self.is_forked() {
            return;
        }
        let _ = self.draining.set(reason);
        self.bells.reports.notify_one();
        self.bells.drained.notify_waiters();
    }
}
