//! What a job gets: a way to say that it lives, and to learn that it should stop.

use crate::error::Interrupted;
use crate::registry::Entry;
use crate::shared::Shared;
use locker_core::machine::{Loss, LossReason};
use locker_core::{Instant, OwnerHash, Token};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

/// What a job gets to say that it lives, and to learn that it should stop.
///
/// Clones speak for the same lock. A heartbeat costs a reading of the clock and a few atomics: no
/// I/O, no waiting, so call it wherever you like, also in a tight loop.
///
/// ```
/// # use distributed_locker::{AcquireOptions, Heartbeater, Interrupted, Locker, memory};
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let locker = Locker::builder(memory()).start().await?;
/// async fn import(job: Heartbeater) -> Result<u32, Interrupted> {
///     for _page in 0..3 {
///         job.heartbeat()?;
///         job.sleep(Duration::from_millis(1)).await?; // beats as well
///     }
///     Ok(3)
/// }
///
/// let run = locker.acquire_and_run("import", AcquireOptions::new(), import).await?;
/// assert_eq!(import(Heartbeater::noop()).await?, 3); // without a lock, as in a test
/// # Ok(())
/// # }
/// ```
///
#[derive(Clone)]
pub struct Heartbeater {
    lock: Option<(Arc<Shared>, Arc<Entry>)>,
    on_every: Option<Arc<OnEvery>>,
}

/// How often a sleep beats at least.
const PACE: Duration = Duration::from_secs(1);

struct OnEvery {
    every: Duration,
    /// Without a lock there is no locker whose clock would count: it is counted from here.
    began: tokio::time::Instant,
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

    /// The same heartbeater that also calls `call` from a heartbeat, the first one included, when
    /// `every` has passed since the last call: for progress reports and the like.
    ///
    /// It is called on the thread of the job that beats, so it should be short. No call overlaps
    /// another: a heartbeat during a call, also one of the callback's own, calls nothing. A
    /// [`sleep`](Self::sleep) beats about once a second, and calls no oftener.
    ///
    /// ```
    /// # use distributed_locker::{Heartbeater, Interrupted};
    /// # use std::time::Duration;
    /// let minute = Duration::from_secs(60);
    /// let job = Heartbeater::noop().with_on_every(minute, || println!("still at it"));
    /// job.heartbeat()?; // prints it
    /// job.heartbeat()?; // does not
    /// # Ok::<_, Interrupted>(())
    /// ```
    #[must_use]
    pub fn with_on_every(mut self, every: Duration, call: impl FnMut() + Send + 'static) -> Self {
        let next = AtomicU64::new(0);
        let call: Mutex<Box<dyn FnMut() + Send>> = Mutex::new(Box::new(call));
        self.on_every = Some(Arc::new(OnEvery {
            every,
            began: tokio::time::Instant::now(),
            next,
            call,
        }));
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
            if let Some(on_every) = &self.on_every {
                on_every.beat(Instant::ZERO + on_every.began.elapsed());
            }
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
            return self.sleep_without_lock(duration).await;
        };
        let until = shared.time.now() + duration;
        let pace = (shared.timing.lock_ttl / 4).min(PACE);
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

    async fn sleep_without_lock(&self, duration: Duration) -> Result<(), Interrupted> {
        let began = tokio::time::Instant::now();
        loop {
            self.heartbeat()?;
            let left = duration.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            // Only a callback has a use for what is between.
            let nap = self.on_every.as_ref().map_or(left, |_| left.min(PACE));
            tokio::time::sleep(nap).await;
        }
    }

    /// Whether the lock is held now.
    pub fn is_valid(&self) -> bool {
        match &self.lock {
            None => true,
            Some((shared, entry)) => entry.tenure.is_valid(shared.time.now()),
        }
    }

    /// Waits until the lock is lost, or was given back; for ever without a lock. For the parts of a job
    /// that dropping its future does not stop: blocking closures and tasks it has spawned.
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
        let is_due = || now.as_nanos() >= self.next.load(Ordering::Acquire);
        if !is_due() {
            return;
        }
        // Of several beats at the same time one calls; nobody waits for a callback, least of all it
        // for itself.
        let mut call = match self.call.try_lock() {
            Ok(call) => call,
            Err(TryLockError::Poisoned(call)) => call.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // It may have been called since.
        if is_due() {
            let next = (now + self.every).as_nanos();
            self.next.store(next, Ordering::Release);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU32;

    /// A heartbeater without a lock, and how often its callback was called.
    fn counting(every: Duration) -> (Heartbeater, Arc<AtomicU32>) {
        let calls = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&calls);
        let job = Heartbeater::noop().with_on_every(every, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (job, calls)
    }

    #[tokio::test(start_paused = true)]
    async fn a_callback_is_called_at_the_first_beat_and_once_per_period() {
        let (job, calls) = counting(Duration::from_secs(10));
        for second in 0..=30 {
            job.heartbeat().unwrap();
            job.clone().heartbeat().unwrap();
            let calls = calls.load(Ordering::Relaxed);
            assert_eq!(calls, 1 + second / 10, "after {second} s");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_without_a_lock_calls_back_and_lasts_as_long_as_it_should() {
        let (job, calls) = counting(Duration::from_secs(5));
        let began = tokio::time::Instant::now();
        job.sleep(Duration::from_millis(12_500)).await.unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 3);
        assert_eq!(began.elapsed(), Duration::from_millis(12_500));
    }

    #[test]
    fn a_callback_that_beats_is_not_called_inside_itself() {
        let own = Arc::new(OnceLock::<Heartbeater>::new());
        let (calls, inside) = (Arc::new(AtomicU32::new(0)), Arc::clone(&own));
        let count = Arc::clone(&calls);
        let job = Heartbeater::noop().with_on_every(Duration::ZERO, move || {
            count.fetch_add(1, Ordering::Relaxed);
            inside.get().expect("it was put there").heartbeat().unwrap();
        });
        own.set(job.clone()).expect("it is put there once");
        for beats in 1..=3 {
            job.heartbeat().unwrap();
            assert_eq!(calls.load(Ordering::Relaxed), beats);
        }
    }
}
