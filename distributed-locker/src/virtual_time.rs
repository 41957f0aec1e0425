//! Letting time pass in a unit test.

use locker_core::{Clock, ManualClock};
use std::time::Duration;

/// Lets `time` pass on a manual clock: step by step, so that everybody who sleeps on it wakes at
/// its own moment and has done its work before the clock moves on.
///
/// Call it from the one task of a `#[tokio::test]`; the other tasks of that runtime, and the
/// Reporters of the lockers on this clock, run between the steps. An hour passes in milliseconds.
///
/// ```
/// # use distributed_locker::{AcquireOptions, Locker, ManualClock, Memory, pass};
/// # use std::{sync::Arc, time::Duration};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let clock = Arc::new(ManualClock::new());
/// let store = Arc::new(Memory::new(clock.clone()));
/// let locker = Locker::builder(store).clock(clock.clone()).start().await?;
/// let guard = locker.acquire("nightly", AcquireOptions::new()).await?.guard().unwrap();
/// pass(&clock, Duration::from_secs(299)).await;
/// assert!(guard.is_valid());
/// pass(&clock, Duration::from_secs(1)).await; // five minutes without a heartbeat
/// assert!(!guard.is_valid());
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
///
/// When it is dropped only a part of the time has passed.
pub async fn pass(clock: &ManualClock, time: Duration) {
    let end = clock.now() + time;
    loop {
        quiet(clock).await;
        let now = clock.now();
        match clock.next_wake() {
            Some(next) if next <= end => clock.advance(next.since(now)),
            _ => break clock.advance(end.since(now)),
        }
    }
    quiet(clock).await;
}

/// Waits until everything that was woken has done its work.
async fn quiet(clock: &ManualClock) {
    // Other tasks of this runtime run while this one yields. A thread that was woken from here
    // needs a moment to notice; so quiet counts only if it lasts.
    let mut quiet_looks = 0;
    while quiet_looks < 8 {
        tokio::task::yield_now().await;
        if clock.is_quiet() {
            quiet_looks += 1;
        } else {
            quiet_looks = 0;
            std::thread::yield_now();
        }
    }
}
