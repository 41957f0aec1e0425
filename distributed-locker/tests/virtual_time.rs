//! Virtual time: hours of locking in milliseconds, without a race.
use distributed_locker::{AcquireOptions, Locker, ManualClock, Memory, pass};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_job_that_never_beats_loses_its_lock_after_exactly_one_lock_ttl() {
    let clock = Arc::new(ManualClock::new());
    let store = Arc::new(Memory::new(clock.clone()));
    let locker = Locker::builder(store)
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    let guard = locker
        .acquire("nightly", AcquireOptions::new())
        .await
        .unwrap()
        .guard()
        .unwrap();
    for _ in 0..299 {
        pass(&clock, Duration::from_secs(1)).await;
        assert!(guard.is_valid(), "{:?}", guard.loss());
    }
    pass(&clock, Duration::from_secs(1)).await;
    assert!(!guard.is_valid());
}
