//! The handle of a locker.

use crate::acquire::{self, Acquired};
use crate::builder::LockerBuilder;
use crate::error::{AcquireError, MutexError, NotRunning, RunError, StillRunning};
use crate::events::Events;
use crate::guard::LockGuard;
use crate::heartbeat::Heartbeater;
use crate::into_key::IntoKey;
use crate::options::AcquireOptions;
use crate::run::{self, Completed, Run};
use crate::shared::{Life, Shared};
use crate::shutdown::Shutdown;
use crate::standby::Standby;
use locker_core::backend::Connect;
use locker_core::{Key, ProcessHash, Timing};
use std::sync::Arc;
use std::time::Duration;

/// A locker: one process as the store sees it.
///
/// Clones are handles of the same locker. When the last handle is dropped, and every guard is
/// gone, the process's record is given up in the background; [`terminate`](Self::terminate) does
/// the same and waits for it.
///
/// A locker is bound to the tokio runtime that started it: the caller's side of the store lives
/// there. The Reporter, which keeps the locks, lives on a thread of its own.
///
/// ```
/// # use distributed_locker::{AcquireOptions, Locker, Run, memory};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let locker = Locker::builder(memory()).start().await?;
/// let run = locker
///     .acquire_and_run("nightly", AcquireOptions::new(), async |job| {
///         for _batch in 0..3 {
///             job.heartbeat()?; // an error means: stop
///         }
///         Ok::<_, distributed_locker::Interrupted>("done")
///     })
///     .await?;
/// match run {
///     Run::Completed { value, .. } => assert_eq!(value?, "done"),
///     Run::SomeoneElseHoldsLock(holder) => println!("{} is at it", holder.owner),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Locker {
    shared: Arc<Shared>,
    _handle: Arc<Handle>,
}

/// All clones of a locker together; its drop is the drop of the last one.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.0.is_forked() {
            self.0.drain("the last handle was dropped".to_owned());
        }
    }
}

impl Locker {
    /// Begins to set up a locker on a store.
    pub fn builder(connect: Arc<dyn Connect>) -> LockerBuilder {
        LockerBuilder::new(connect)
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            _handle: Arc::new(Handle(Arc::clone(&shared))),
            shared,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Tries once to acquire a lock, unless [`AcquireOptions::wait`] says how long to wait for it.
    ///
    /// The [`LockGuard`](crate::LockGuard) must beat at least once per lock TTL (5 min), unless the options say
    /// [`HeartbeatPolicy::Automatic`](crate::HeartbeatPolicy::Automatic).
    ///
    /// # Errors
    ///
    /// [`AcquireError`]; in every case the lock is not held by the caller, and whatever the store
    /// may have granted is given back in the background.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the lock is not held, and whatever was sent is settled in the background.
    pub async fn acquire<K>(
        &self,
        key: K,
        options: AcquireOptions,
    ) -> Result<Acquired, AcquireError>
    where
        K: IntoKey,
    {
        let key = key.into_key().map_err(AcquireError::InvalidKey)?;
        acquire::acquire(&self.shared, &key, &options).await
    }

    /// Tries once to acquire a lock, with the default options; `None` if somebody else holds it.
    /// [`acquire`](Self::acquire) also tells who that is, and can wait.
    ///
    /// ```
    /// # use distributed_locker::{Locker, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// if let Some(guard) = locker.try_acquire("nightly").await? {
    ///     assert!(locker.try_acquire("nightly").await?.is_none());
    ///     guard.release().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire<K>(&self, key: K) -> Result<Option<LockGuard>, AcquireError>
    where
        K: IntoKey,
    {
        let acquired = self.acquire(key, AcquireOptions::new()).await?;
        Ok(acquired.guard())
    }

    /// Runs a job under a lock, and gives the lock back.
    ///
    /// The job gets a [`Heartbeater`], and must [beat](Heartbeater::heartbeat) at least once per lock
    /// TTL (5 min), unless the options say
    /// [`HeartbeatPolicy::Automatic`](crate::HeartbeatPolicy::Automatic). On loss its future is dropped (unless
    /// [`OnLost::Signal`](crate::OnLost::Signal) is asked for), before anybody else can own the
    /// lock.
    ///
    /// # Errors
    ///
    /// [`RunError::Acquire`] when the job was not run; [`RunError::Lost`] when it lost its lock.
    /// What the job itself returns is in [`Run::Completed`], be it an `Err` or not.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the job is dropped with it, and the lock is given back.
    pub async fn acquire_and_run<K, T>(
        &self,
        key: K,
        options: AcquireOptions,
        job: impl AsyncFnOnce(Heartbeater) -> T,
    ) -> Result<Run<T>, RunError<T>>
    where
        K: IntoKey,
    {
        let key = key.into_key().map_err(AcquireError::InvalidKey)?;
        run::acquire_and_run(&self.shared, &key, &options, job).await
    }

    /// Runs a job as soon as nobody else does, waiting up to `timeout` for it: an
    /// [`acquire_and_run`](Self::acquire_and_run) in which not to get the lock is an error.
    ///
    /// A release wakes the waiters in the order in which they came;
    /// [`AcquireOptions::poll_every`] is the net under that. [`AcquireOptions::wait`] has no effect.
    ///
    /// ```
    /// # use distributed_locker::{AcquireOptions, Locker, Release, memory};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let timeout = Duration::from_secs(30);
    /// let ran = locker
    ///     .mutex("counter", timeout, AcquireOptions::new(), async |_job| 6 * 7)
    ///     .await?;
    /// assert_eq!(ran.value, 42);
    /// assert!(matches!(ran.release, Release::Confirmed));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`MutexError::TimedOut`] carries who holds the lock; the job was not run.
    /// [`MutexError::Run`] as [`acquire_and_run`](Self::acquire_and_run).
    ///
    /// # Cancel safety
    ///
    /// As [`acquire_and_run`](Self::acquire_and_run).
    pub async fn mutex<K, T>(
        &self,
        key: K,
        timeout: Duration,
        options: AcquireOptions,
        job: impl AsyncFnOnce(Heartbeater) -> T,
    ) -> Result<Completed<T>, MutexError<T>>
    where
        K: IntoKey,
    {
        let key = key.into_key().map_err(AcquireError::InvalidKey);
        let key = key.map_err(RunError::Acquire)?;
        run::mutex(&self.shared, &key, timeout, options, job).await
    }

    /// Stands by for a lock, to hold it whenever it is free.
    ///
    /// [`AcquireOptions::wait`] has no effect: a standby waits without limit. Its guards need no
    /// heartbeats, unless the options ask for
    /// [`HeartbeatPolicy::Required`](crate::HeartbeatPolicy::Required).
    ///
    /// # Errors
    ///
    /// [`AcquireError::InvalidKey`].
    pub fn standby<K>(&self, key: K, options: AcquireOptions) -> Result<Standby, AcquireError>
    where
        K: IntoKey,
    {
        let key = key.into_key().map_err(AcquireError::InvalidKey)?;
        Ok(Standby::new(Arc::clone(&self.shared), key, options))
    }

    /// The hash of the living incarnation of this process; `None` while there is none.
    pub fn process_hash(&self) -> Option<ProcessHash> {
        self.shared.process_hash()
    }

    /// Waits until the process has a recent, confirmed liveness report, at most the start timeout.
    ///
    /// # Errors
    ///
    /// [`NotRunning`] says why there is none.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any point.
    pub async fn ensure_running(&self) -> Result<ProcessHash, NotRunning> {
        let deadline = self.shared.time.now() + self.shared.timing.start_timeout;
        Ok(self.shared.incarnation(deadline).await?.process.clone())
    }

    /// The timing as it counts at this store.
    pub fn timing(&self) -> &Timing {
        &self.shared.timing
    }

    /// The locks that this process holds, acquires or gives back at this moment.
    pub fn keys(&self) -> Vec<Key> {
        self.shared.registry.keys()
    }

    /// What happens in the background, from now on.
    pub fn events(&self) -> Events {
        self.shared.events.subscribe()
    }

    /// Takes no more work: new acquisitions are refused, waiters are sent home, and jobs are told
    /// at their next heartbeat. Each lock is released as its job ends; with the last one goes the
    /// process's record. The first reason counts.
    pub fn drain(&self, reason: impl Into<String>) {
        self.shared.drain(reason.into());
    }

    /// Drains, and waits until every lock has been released and the process's record is gone: one
    /// write at the store that frees whatever is left.
    ///
    /// # Errors
    ///
    /// [`StillRunning`] when jobs still hold their locks at the end of the grace. They keep them,
    /// and the process's record stays, until they end or the process does; `terminate` may be
    /// called again.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the draining goes on in the background.
    pub async fn terminate(&self, grace: Duration) -> Result<(), StillRunning> {
        self.shared.drain("the locker was terminated".to_owned());
        let deadline = self.shared.time.now() + grace;
        let emptied = async {
            loop {
                let rung = self.shared.registry.left.notified();
                if self.shared.registry.is_empty() {
                    return;
                }
                rung.await;
            }
        };
        tokio::select! {
            biased;
            () = emptied => {}
            () = self.shared.time.sleep_until(deadline) => {
                return Err(StillRunning { keys: self.shared.registry.keys() });
            }
        }
        // The Reporter retires the record: it has its own bounded patience with the store.
        let mut life = self.shared.life.subscribe();
        let patience = self.shared.timing.liveness_ttl;
        let ended = life.wait_for(|life| matches!(life, Life::Ended));
        let _ = self.shared.time.timeout(patience, ended).await;
        Ok(())
    }

    /// Drains when the process gets SIGINT or SIGTERM, and tells when everything is released.
    ///
    /// It never ends the process by itself; from the first signal on the default action of both
    /// signals is replaced for the whole process.
    ///
    /// # Errors
    ///
    /// An I/O error when the signals cannot be caught.
    pub fn shutdown_on_signals(&self, grace: Duration) -> std::io::Result<Shutdown> {
        Shutdown::start(self.clone(), grace)
    }
}
