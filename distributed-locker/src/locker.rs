//! The handle of a locker.

use crate::acquire::{self, Acquired};
use crate::builder::LockerBuilder;
use crate::error::{AcquireError, MutexError, NotRunning, RunError, TerminateError};
use crate::events::Events;
use crate::guard::LockGuard;
use crate::heartbeat::Heartbeater;
use crate::into_key::IntoKey;
use crate::options::AcquireOptions;
use crate::run::{self, Completed, Run};
use crate::shared::Shared;
use crate::shutdown::Shutdown;
use crate::standby::Standby;
use locker_core::backend::Connect;
use locker_core::{Key, ProcessHash, Timing};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A locker: one process as the store sees it.
///
/// Clones are handles of the same locker. Dropping the last one [drains](Self::drain) it: guards that
/// live on keep their locks, and their heartbeats answer [`Interrupted::Draining`]; when every guard is
/// gone, the process's record is given up in the background. [`terminate`](Self::terminate) does the
/// same and waits for it.
///
/// [`Interrupted::Draining`]: crate::Interrupted::Draining
///
/// A locker is bound to the tokio runtime that started it: the caller's side of the store lives
/// there. The Reporter, which keeps the locks, lives on a thread of its own.
///
/// A forked child has neither that thread nor a connection of its own. What it asks of its parent's
/// locker is refused and never sent; it starts another locker, on another runtime.
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
#[derive(Clone)]
pub struct Locker {
    shared: Arc<Shared>,
    _handle: Arc<Handle>,
}

impl fmt::Debug for Locker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locker")
            .field("process", &self.process_hash())
            .finish_non_exhaustive()
    }
}

/// All clones of a locker together; its drop is the drop of the last one.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.drain("the last handle was dropped".to_owned());
    }
}

impl Locker {
    /// Begins to set up a locker on a store.
    ///
    /// Give each locker a value of its own ([`connect`](crate::connect) once for each): what it holds
    /// belongs to the connections of one locker. The memory store is the exception: the value is the
    /// store, and whoever shall meet in it shares it.
    ///
    /// ```
    /// # use distributed_locker::{Host, Locker, Timing, memory};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let timing = Timing { lock_ttl: Duration::from_secs(600), ..Timing::default() };
    /// let locker = Locker::builder(memory())
    ///     .timing(timing)
    ///     .host(Host::new("worker-7")?)
    ///     .start()
    ///     .await?;
    /// assert_eq!(locker.timing().lock_ttl, timing.lock_ttl);
    /// # Ok(())
    /// # }
    /// ```
    ///
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
    /// The [`LockGuard`] must beat at least once per lock TTL (5 min), unless the options say
    /// [`HeartbeatPolicy::Automatic`](crate::HeartbeatPolicy::Automatic).
    ///
    /// ```
    /// # use distributed_locker::{AcquireOptions, Acquired, Locker, Wait, memory};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let options = AcquireOptions::new().wait(Wait::For(Duration::from_secs(5)));
    /// match locker.acquire("nightly", options).await? {
    ///     Acquired::Guard(guard) => {
    ///         println!("granted under token {}", guard.token());
    ///         guard.release().await?;
    ///     }
    ///     Acquired::SomeoneElseHoldsLock(holder) => println!("{} holds it", holder.owner),
    /// }
    /// # Ok(())
    /// # }
    /// ```
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
    /// [`HeartbeatPolicy::Automatic`](crate::HeartbeatPolicy::Automatic). On loss its future is
    /// dropped (unless [`OnLost::Signal`](crate::OnLost::Signal) is asked for), before anybody else
    /// can own the lock. There is an example at [`Locker`].
    ///
    /// The job may borrow: it need not be `'static`. The future is `Send` if the job's is, so it can be
    /// spawned. What the job itself spawns outlives it: see [`Heartbeater::lost`].
    ///
    /// # Errors
    ///
    /// [`RunError::Acquire`] when the job was not run; [`RunError::Lost`] when it lost its lock;
    /// [`RunError::Forked`] in a child that the job has forked.
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

    /// Stands by for a lock, to hold it whenever it is free: there is an example at [`Standby`].
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

    /// The hash of the living incarnation of this process; `None` while there is none, and in a forked
    /// child. It changes when the process was cut off from the store for too long.
    pub fn process_hash(&self) -> Option<ProcessHash> {
        self.shared.process_hash()
    }

    /// Waits until the process has a recent, confirmed liveness report, at most the start timeout. For
    /// readiness probes; an acquisition does it by itself.
    ///
    /// ```
    /// # use distributed_locker::{Locker, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let process = locker.ensure_running().await?;
    /// assert_eq!(locker.process_hash(), Some(process));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotRunning`] says why there is none.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any point.
    pub async fn ensure_running(&self) -> Result<ProcessHash, NotRunning> {
        if self.shared.is_forked() {
            return Err(NotRunning::Forked);
        }
        let deadline = self.shared.time.now() + self.shared.timing.start_timeout;
        Ok(self.shared.incarnation(deadline).await?.process.clone())
    }

    /// The timing as it counts at this store.
    pub fn timing(&self) -> &Timing {
        &self.shared.timing
    }

    /// The locks that this process holds, acquires or gives back at this moment. In a forked child there are
    /// none.
    ///
    /// ```
    /// # use distributed_locker::{Locker, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// assert_eq!(locker.keys(), [guard.key().clone()]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    pub fn keys(&self) -> Vec<Key> {
        if self.shared.is_forked() {
            return Vec::new();
        }
        self.shared.registry.keys()
    }

    /// What happens in the background, from now on.
    ///
    /// ```
    /// # use distributed_locker::{Event, Force, Locker, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let mut events = locker.events();
    /// let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// locker.force_release(guard.owner_hash(), Force::Now).await?;
    /// let found = guard.release().await;
    /// assert!(found.is_err(), "there was nothing to release any more");
    /// loop {
    ///     match events.next().await.expect("the locker has not ended") {
    ///         Event::LostLock { owner, loss } => break println!("{owner}: {loss}"),
    ///         other => println!("{other}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    pub fn events(&self) -> Events {
        self.shared.events.subscribe(self.shared.life.subscribe())
    }

    /// Takes no more work: new acquisitions are refused, waiters are sent home, and jobs are told
    /// at their next heartbeat. Each lock is released as its job ends; with the last one goes the
    /// process's record. The first reason counts. In a forked child it does nothing.
    ///
    /// ```
    /// # use distributed_locker::{AcquireError, AcquireOptions, Interrupted, Locker, memory};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// locker.drain("a new version is coming");
    /// let refused = locker.acquire("other", AcquireOptions::new()).await;
    /// assert!(matches!(refused, Err(AcquireError::Draining(_))));
    /// assert!(matches!(guard.heartbeat(), Err(Interrupted::Draining(_))));
    /// assert!(guard.is_valid(), "its work may be finished");
    /// guard.release().await?;
    /// locker.terminate(Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    pub fn drain(&self, reason: impl Into<String>) {
        self.shared.drain(reason.into());
    }

    /// Drains, and waits until every lock has been released and the store has confirmed that the
    /// process's record is gone: the one write that tells everybody that nothing of it is left. `grace`
    /// is for all of it together.
    ///
    /// # Errors
    ///
    /// [`TerminateError::StillRunning`] when jobs, or releases that the store does not confirm, still
    /// have their locks at the end of the grace. They keep them, and the process's record stays, until
    /// they end or the process does. [`TerminateError::Unconfirmed`] when only that record may be left.
    /// `terminate` may be called again. [`TerminateError::Forked`] in a forked child, where nothing is
    /// drained and nothing is waited for.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the draining goes on in the background.
    pub async fn terminate(&self, grace: Duration) -> Result<(), TerminateError> {
        self.shared
            .terminate("the locker was terminated", grace)
            .await
    }

    /// Drains when the process gets SIGINT or SIGTERM, and tells when everything is released.
    ///
    /// It never ends the process by itself. From this call on the default action of both signals is
    /// replaced, for the whole process and for as long as it lives: when [`Shutdown::finished`] has
    /// answered, end the program.
    ///
    /// ```no_run
    /// # use distributed_locker::{AcquireOptions, Locker, memory};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let mut shutdown = locker.shutdown_on_signals(Duration::from_secs(20))?;
    /// let work = locker.acquire_and_run("nightly", AcquireOptions::new(), async |job| {
    ///     loop {
    ///         job.sleep(Duration::from_secs(1)).await?; // ends with the signal
    ///     }
    ///     # #[allow(unreachable_code)]
    ///     # Ok::<_, distributed_locker::Interrupted>(())
    /// });
    /// println!("{:?}", work.await);
    /// shutdown.finished().await?; // and now the program may end
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// An I/O error when the signals cannot be caught.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or on one without its I/O driver.
    pub fn shutdown_on_signals(&self, grace: Duration) -> std::io::Result<Shutdown> {
        Shutdown::start(Arc::clone(&self.shared), grace)
    }
}
