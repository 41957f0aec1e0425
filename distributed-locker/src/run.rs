//! Running a job under a lock.
//!
//! The job is polled only after its lock has been found valid (S12): after a suspend of an hour,
//! not one step of a job that lost its lock is taken, whatever timer was late. Dropping a future
//! does not stop blocking closures and tasks that it has spawned: those ask
//! [`Heartbeater::is_valid`] or wait for [`Heartbeater::lost`].

use crate::acquire::{Acquired, acquire};
use crate::error::{MutexError, ReleaseError, RunError};
use crate::guard::LockGuard;
use crate::heartbeat::Heartbeater;
use crate::options::{AcquireOptions, OnLost, Wait};
use crate::shared::Shared;
use crate::spans;
use locker_core::machine::Loss;
use locker_core::{BackendError, Key, LockData};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tracing::Instrument;

/// How a run ended that did not lose its lock.
#[derive(Debug)]
#[must_use]
pub enum Run<T> {
    /// The job ran to its end under its lock.
    Completed {
        /// What it returned, be that success or failure of its own.
        value: T,
        /// Whether the store has confirmed that the lock is free again.
        release: Release,
    },
    /// Somebody else holds the lock. The job was not run.
    SomeoneElseHoldsLock(LockData),
}

/// A job that ran to its end under its lock, as [`Locker::mutex`](crate::Locker::mutex) answers it.
#[derive(Debug)]
pub struct Completed<T> {
    /// What it returned, be that success or failure of its own.
    pub value: T,
    /// Whether the store has confirmed that the lock is free again.
    pub release: Release,
}

/// Whether a release was confirmed.
#[derive(Debug)]
pub enum Release {
    /// The store has confirmed it.
    Confirmed,
    /// The store has not answered in time: the release goes on in the background, and the lock may be
    /// held until then. Or an answer was lost, and the repetition found that the lock is not its owner's
    /// any more ([`ReleaseError::Unconfirmed`]).
    Unconfirmed(BackendError),
}

/// See [`Locker::acquire_and_run`](crate::Locker::acquire_and_run).
pub(crate) async fn acquire_and_run<T>(
    shared: &Arc<Shared>,
    key: &Key,
    options: &AcquireOptions,
    job: impl AsyncFnOnce(Heartbeater) -> T,
) -> Result<Run<T>, RunError<T>> {
    let guard = match acquire(shared, key, options).await? {
        Acquired::Guard(guard) => guard,
        Acquired::SomeoneElseHoldsLock(data) => return Ok(Run::SomeoneElseHoldsLock(data)),
    };
    let job = job(guard.heartbeater()).instrument(spans::run(guard.owner_hash(), guard.token()));
    let value = match options.on_lost {
        OnLost::Signal => job.await,
        OnLost::Cancel | OnLost::Abort => supervise(&guard, job)
            .await
            .map_err(|loss| RunError::Lost { loss, late: None })?,
    };
    // A loss that was there when the job ended makes its value a late one (S6), and so does a
    // release that finds nothing to release.
    match guard.release().await {
        Ok(()) => Ok(Run::Completed {
            value,
            release: Release::Confirmed,
        }),
        Err(ReleaseError::Unconfirmed(error)) => Ok(Run::Completed {
            value,
            release: Release::Unconfirmed(error),
        }),
        Err(ReleaseError::Lost(loss)) => Err(RunError::Lost {
            loss,
            late: Some(value),
        }),
        Err(ReleaseError::Forked) => Err(RunError::Forked { value }),
    }
}

/// Runs the job as long as its lock is good, and drops it otherwise.
async fn supervise<T>(guard: &LockGuard, job: impl Future<Output = T>) -> Result<T, Loss> {
    let mut job = pin!(job);
    let mut lost = pin!(guard.entry().wait_lost(guard.shared()));
    poll_fn(|context| {
        if let Err(loss) = guard.entry().judge(guard.shared()) {
            return Poll::Ready(Err(loss));
        }
        if let Poll::Ready(loss) = lost.as_mut().poll(context) {
            return Poll::Ready(Err(loss));
        }
        job.as_mut().poll(context).map(Ok)
    })
    .await
}

/// See [`Locker::mutex`](crate::Locker::mutex).
pub(crate) async fn mutex<T>(
    shared: &Arc<Shared>,
    key: &Key,
    timeout: Duration,
    options: AcquireOptions,
    job: impl AsyncFnOnce(Heartbeater) -> T,
) -> Result<Completed<T>, MutexError<T>> {
    let options = options.wait(Wait::For(timeout));
    match acquire_and_run(shared, key, &options, job).await? {
        Run::Completed { value, release } => Ok(Completed { value, release }),
        Run::SomeoneElseHoldsLock(holder) => Err(MutexError::TimedOut {
            holder: Box::new(holder),
        }),
    }
}

#[cfg(test)]
mod tests {
    use crate::{AcquireOptions, Locker, Run, memory};
    use std::time::Duration;

    fn assert_send<T: Send>(future: T) -> T {
        future
    }

    /// That it compiles is the point: whatever a caller waits for can be spawned, and a job may borrow.
    #[tokio::test]
    async fn what_is_waited_for_is_send_and_a_job_need_not_be_static() {
        let locker = Locker::builder(memory()).start().await.unwrap();
        let borrowed = [1, 2, 3];
        let options = AcquireOptions::new;
        let count = async |_job| borrowed.len();
        let run = assert_send(locker.acquire_and_run("k", options(), count));
        assert!(matches!(run.await, Ok(Run::Completed { value: 3, .. })));
        let timeout = Duration::from_secs(1);
        let count = async |_job| borrowed.len();
        let ran = assert_send(locker.mutex("k", timeout, options(), count)).await;
        assert_eq!(ran.unwrap().value, 3);
        let mut standby = locker.standby("k", options()).unwrap();
        let guard = assert_send(standby.next()).await.unwrap();
        drop(assert_send(guard.lost()));
        drop(assert_send(guard.extend()));
        drop(assert_send(locker.acquire("k", options())));
        drop(assert_send(locker.on_release("k")));
        drop(assert_send(locker.read_lock_data("k")));
        drop(assert_send(locker.read_owner_hash_status("k")));
        drop(assert_send(locker.terminate(timeout)));
        assert_send(guard.release()).await.unwrap();
        let spawned = tokio::spawn(async move {
            let job = async |job: crate::Heartbeater| job.heartbeat();
            locker.acquire_and_run("k", options(), job).await.is_ok()
        });
        assert!(spawned.await.unwrap());
    }
}
