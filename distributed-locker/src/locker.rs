//! The handle of a locker.

use crate::acquire::{self, Acquired};
use crate::builder::LockerBuilder;
use crate::error::{AcquireError, MutexError, NotRunning, RunError, TerminateError};
use crate::events::Events;
use crate::heartbeat::Heartbeater;
use crate::options::AcquireOptions;
use crate::run::{self, Run};
use crate::shared::{Ending, Life, Shared};
use crate::shutdown::Shutdown;
use crate::standby::Standby;
use futures_core::Stream;
use futures_util::StreamExt;
use locker_core::backend::{Connect, Force, Hint, Liveness, Released, Watcher};
use locker_core::{BackendError, InvalidIdentity, Key, LockData, OwnerHash, ProcessHash, Timing};
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

/// How an owner hash stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnerHashStatus {
    /// This owner holds the lock, and its process lives.
    Running,
    /// Another owner holds the lock.
    SomeoneElseHoldsLock(LockData),
    /// Nobody holds the lock.
    NoKey,
    /// This owner's record is there, but its process is dead: the lock can be taken over.
    NoRunningProcess,
    /// The text is not an owner hash.
    MalformedOwnerHash,
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

    /// Asks for a lock.
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
        K: TryInto<Key, Error: Into<InvalidIdentity>>,
    {
        let key = parse(key)?;
        acquire::acquire(&self.shared, &key, &options).await
    }

    /// Runs a job under a lock, and gives the lock back.
    ///
    /// The job gets a [`Heartbeater`]. On loss its future is dropped (unless
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
        K: TryInto<Key, Error: Into<InvalidIdentity>>,
    {
        let key = parse(key)?;
        run::acquire_and_run(&self.shared, &key, &options, job).await
    }

    /// Runs a job as soon as nobody else does, waiting up to `timeout` for it. A release wakes the
    /// waiters in the order in which they came; `recheck` is the net under that.
    ///
    /// # Errors
    ///
    /// [`MutexError::TimedOut`] carries who holds the lock; the job was not run.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire_and_run`](Self::acquire_and_run).
    pub async fn mutex<K, T>(
        &self,
        key: K,
        timeout: Duration,
        recheck: Duration,
        job: impl AsyncFnOnce(Heartbeater) -> T,
    ) -> Result<T, MutexError<T>>
    where
        K: TryInto<Key, Error: Into<InvalidIdentity>>,
    {
        let key = parse(key).map_err(RunError::Acquire)?;
        run::mutex(&self.shared, &key, timeout, recheck, job).await
    }

    /// Stands by for a lock, to hold it whenever it is free.
    ///
    /// # Errors
    ///
    /// [`AcquireError::InvalidKey`].
    pub fn standby<K>(&self, key: K, options: AcquireOptions) -> Result<Standby, AcquireError>
    where
        K: TryInto<Key, Error: Into<InvalidIdentity>>,
    {
        Ok(Standby::new(Arc::clone(&self.shared), parse(key)?, options))
    }

    /// A stream with an item for every release of the lock that this process hears of: a hint, not
    /// a proof. It resolves when the store has confirmed the subscription.
    ///
    /// # Errors
    ///
    /// [`AcquireError::InvalidKey`] or [`AcquireError::Store`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it or its stream ends the subscription.
    pub async fn on_release<K>(
        &self,
        key: K,
    ) -> Result<impl Stream<Item = Key> + Send + Unpin + use<K>, AcquireError>
    where
        K: TryInto<Key, Error: Into<InvalidIdentity>>,
    {
        let key = parse(key)?;
        let watch =
            async |store: Arc<dyn crate::Backend>| store.watch(&key, &Watcher::Observer).await;
        let hints = self
            .shared
            .caller
            .call(watch)
            .await
            .map_err(AcquireError::Store)?;
        Ok(hints.filter_map(move |hint| {
            let released = match hint {
                Hint::Free { .. } => Some(key.clone()),
                Hint::Rebuilt => None,
            };
            std::future::ready(released)
        }))
    }

    /// Who holds a lock. A record whose process is dead is shown as well.
    ///
    /// # Errors
    ///
    /// [`AcquireError::InvalidKey`] or [`AcquireError::Store`]. Nothing was changed.
    pub async fn read_lock_data<K>(&self, key: K) -> Result<Option<LockData>, AcquireError>
    where
        K: TryInto<Key, Error: Into<InvalidIdentity>>,
    {
        let key = parse(key)?;
        let read = self
            .shared
            .caller
            .call(async |store| store.read_lock(&key).await)
            .await;
        Ok(read
            .map_err(AcquireError::Store)?
            .value
            .map(|held| held.data))
    }

    /// How an owner hash stands: first whether it owns the lock, then whether its process lives.
    ///
    /// # Errors
    ///
    /// [`BackendError`]. Nothing was changed.
    pub async fn read_owner_hash_status(
        &self,
        owner: &str,
    ) -> Result<OwnerHashStatus, BackendError> {
        let Ok(owner) = owner.parse::<OwnerHash>() else {
            return Ok(OwnerHashStatus::MalformedOwnerHash);
        };
        let caller = &self.shared.caller;
        let held = caller
            .call(async |store| store.read_lock(owner.key()).await)
            .await?
            .value;
        let Some(held) = held else {
            return Ok(OwnerHashStatus::NoKey);
        };
        if held.data.owner != owner {
            return Ok(OwnerHashStatus::SomeoneElseHoldsLock(held.data));
        }
        let liveness = match held.holder {
            Some(liveness) => liveness,
            None => {
                let read = async |store: Arc<dyn crate::Backend>| {
                    store.read_process(owner.process()).await
                };
                caller.call(read).await?.value
            }
        };
        Ok(match liveness {
            Liveness::Alive(_) | Liveness::Unknown => OwnerHashStatus::Running,
            Liveness::Dead => OwnerHashStatus::NoRunningProcess,
        })
    }

    /// Takes a lock from its owner, by an operator's will.
    ///
    /// [`Force::Mark`] lets the owner stop first: the lock is free soon after. [`Force::Now`] frees
    /// it at once, while the owner may still be working: only the fencing token protects then.
    ///
    /// # Errors
    ///
    /// [`BackendError`].
    ///
    /// # Cancel safety
    ///
    /// When it is dropped it has happened or not.
    pub async fn force_release(
        &self,
        owner: &OwnerHash,
        force: Force,
    ) -> Result<Released, BackendError> {
        let caller = &self.shared.caller;
        Ok(caller
            .call(async |store| store.force_release(owner, force).await)
            .await?
            .value)
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

    /// Drains, and waits until every lock has been released and the store has confirmed that the
    /// process's record is gone: the one write that tells everybody that nothing of it is left. `grace`
    /// is for all of it together.
    ///
    /// # Errors
    ///
    /// [`TerminateError::StillRunning`] when jobs, or releases that the store does not confirm, still
    /// have their locks at the end of the grace. They keep them, and the process's record stays, until
    /// they end or the process does. [`TerminateError::Unconfirmed`] when only that record may be left.
    /// `terminate` may be called again.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the draining goes on in the background.
    pub async fn terminate(&self, grace: Duration) -> Result<(), TerminateError> {
        let shared = &self.shared;
        shared.drain("the locker was terminated".to_owned());
        let deadline = shared.time.now() + grace;
        let emptied = async {
            loop {
                let rung = shared.registry.left.notified();
                if shared.registry.is_empty() {
                    return;
                }
                rung.await;
            }
        };
        let Some(()) = shared.time.timeout_at(deadline, emptied).await else {
            let keys = shared.registry.keys();
            return Err(TerminateError::StillRunning { keys });
        };
        let mut life = shared.life.subscribe();
        let ended = async {
            loop {
                if let Life::Ended(ending) = &*life.borrow_and_update() {
                    return *ending;
                }
                // The sender is in our own hands.
                let _ = life.changed().await;
            }
        };
        match shared.time.timeout_at(deadline, ended).await {
            Some(Ending::Gone) => Ok(()),
            Some(Ending::Crashed) => Err(TerminateError::Abandoned),
            Some(Ending::Unconfirmed) | None => {
                let error = shared.not_retired().clone();
                Err(TerminateError::Unconfirmed(error))
            }
        }
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

fn parse<K>(key: K) -> Result<Key, AcquireError>
where
    K: TryInto<Key, Error: Into<InvalidIdentity>>,
{
    key.try_into()
        .map_err(|error| AcquireError::InvalidKey(error.into()))
}
