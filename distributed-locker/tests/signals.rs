//! A signal ends a locker in good order. It goes to this whole process, so this test has a program
//! of its own; the same with a process of its own, on the embedded store, is among the kit's tests.

use distributed_locker::{AcquireError, AcquireOptions, Locker, memory};
use nix::sys::signal::{Signal, raise};
use std::time::Duration;

/// PgIpLock, hazard CU-16: the lock goes with the end of its work, and the process's record last.
#[tokio::test]
async fn a_signal_releases_everything_on_the_memory_store() {
    let store = memory();
    let locker = Locker::builder(store.clone()).start().await.unwrap();
    let other = Locker::builder(store).start().await.unwrap();
    let mut shutdown = locker.shutdown_on_signals(Duration::from_secs(5)).unwrap();
    // One that is thrown away is heard all the same: the signal does nothing else any more.
    let unheeded = Locker::builder(memory()).start().await.unwrap();
    drop(
        unheeded
            .shutdown_on_signals(Duration::from_secs(5))
            .unwrap(),
    );
    // One whose locker ends without a signal has an end.
    let ended = Locker::builder(memory()).start().await.unwrap();
    let mut without_signal = ended.shutdown_on_signals(Duration::from_secs(5)).unwrap();
    drop(ended);
    let finished = tokio::time::timeout(Duration::from_secs(5), without_signal.finished()).await;
    finished.expect("its end is told").unwrap();
    // The signal is listened for from the call on.
    let guard = locker.acquire("k", AcquireOptions::new()).await.unwrap();
    let guard = guard.guard().expect("granted");
    let job = guard.heartbeater();
    raise(Signal::SIGTERM).unwrap();
    let told = job.sleep(Duration::from_secs(60)).await;
    assert!(told.is_err(), "the job is told");
    let refused = async {
        while !matches!(
            unheeded.try_acquire("k").await,
            Err(AcquireError::Draining(_))
        ) {
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(5), refused).await;
    refused.expect("every locker has heard it");
    assert!(guard.is_valid(), "and keeps its lock until it has ended");
    drop(guard);
    shutdown.finished().await.unwrap();
    assert!(locker.ensure_running().await.is_err());
    let next = other.acquire("k", AcquireOptions::new()).await.unwrap();
    assert!(next.guard().is_some(), "everything is released");
}
