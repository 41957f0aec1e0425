//! Virtual time: hours of locking in milliseconds, without a race.
use distributed_locker::{AcquireOptions, Locker, ManualClock, Memory, Run, RunError, pass};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A locker whose time passes when it is told to.
async fn locker() -> (Arc<ManualClock>, Locker) {
    let clock = Arc::new(ManualClock::new());
    let store = Arc::new(Memory::new(clock.clone()));
    let locker = Locker::builder(store)
        .clock(clock.clone())
        .start()
        .await
        .expect("the memory store answers");
    (clock, locker)
}

#[tokio::test]
async fn a_job_that_never_beats_loses_its_lock_after_exactly_one_lock_ttl() {
    let (clock, locker) = locker().await;
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

/// The callback goes by the clock of the lock, and comes from a sleep as well.
#[tokio::test]
async fn a_callback_of_a_held_lock_goes_by_the_clock_of_its_locker() {
    let (clock, locker) = locker().await;
    let calls = Arc::new(AtomicU32::new(0));
    let count = calls.clone();
    let run = locker.acquire_and_run("nightly", AcquireOptions::new(), async |job| {
        let job = job.with_on_every(Duration::from_secs(60), move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        job.sleep(Duration::from_secs(150)).await
    });
    let (run, ()) = tokio::join!(run, pass(&clock, Duration::from_secs(151)));
    assert!(matches!(run.unwrap(), Run::Completed { value: Ok(()), .. }));
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

/// S12, attack 18, hazard CU-15: the machine sleeps for ten minutes between two polls of a job. No
/// timer has rung and no thread has looked, and yet not one step of the job follows.
#[tokio::test]
async fn after_a_jump_of_the_boot_clock_no_step_of_the_job_runs() {
    let (clock, locker) = locker().await;
    let steps = Cell::new(0);
    let run = locker.acquire_and_run("nightly", AcquireOptions::new(), async |_job| {
        loop {
            steps.set(steps.get() + 1);
            tokio::task::yield_now().await;
        }
    });
    let sleeps = async {
        while steps.get() < 3 {
            tokio::task::yield_now().await;
        }
        clock.advance(Duration::from_secs(600));
        steps.get()
    };
    let (run, before) = tokio::join!(run, sleeps);
    let run: Result<Run<()>, _> = run;
    assert!(matches!(run, Err(RunError::Lost { .. })), "{run:?}");
    assert_eq!(steps.get(), before, "a step was taken after the sleep");
}
