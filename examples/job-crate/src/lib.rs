//! A crate with a job of its own, as a user would write it, and how its author tests it.
//!
//! The job writes a report page by page. The tests below run it on the memory store in virtual time:
//! waiting five minutes costs nothing, and nothing depends on how busy the machine is.

use distributed_locker::{AcquireOptions, Heartbeater, Interrupted, Locker, Run, RunError};
use std::time::Duration;

/// How long one page takes.
pub const PAGE: Duration = Duration::from_secs(90);

/// What became of the report.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was written, with so many pages.
    Written(u32),
    /// Somebody else is writing it.
    Busy,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The lock could not be acquired, or was lost: pages may be missing.
    #[error("the report is not complete")]
    Lock(#[from] RunError<Result<u32, Interrupted>>),
    /// The job was told to stop.
    #[error("the report was interrupted")]
    Stopped(#[from] Interrupted),
}

/// Writes tonight's report, unless somebody is at it already.
///
/// # Errors
///
/// [`ReportError`] when the lock was lost on the way, or the locker is draining.
pub async fn nightly(locker: &Locker, pages: u32) -> Result<Outcome, ReportError> {
    let job = async |hb: Heartbeater| write_pages(&hb, pages).await;
    match locker
        .acquire_and_run("nightly-report", AcquireOptions::new(), job)
        .await?
    {
        Run::Completed { value, .. } => Ok(Outcome::Written(value?)),
        Run::SomeoneElseHoldsLock(_) => Ok(Outcome::Busy),
    }
}

/// The work itself: it knows its heartbeater, not its lock.
async fn write_pages(hb: &Heartbeater, pages: u32) -> Result<u32, Interrupted> {
    for _ in 0..pages {
        hb.sleep(PAGE).await?;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use distributed_locker::{Force, LossReason, ManualClock, Memory, pass};
    use std::sync::Arc;

    /// A store in memory, the clock it lives by, and a worker over it.
    async fn world() -> (Arc<ManualClock>, Memory, Locker) {
        let clock = Arc::new(ManualClock::new());
        let store = Memory::new(clock.clone());
        let locker = worker(&clock, &store).await;
        (clock, store, locker)
    }

    /// Another worker over the same store: to the store it is another process.
    async fn worker(clock: &Arc<ManualClock>, store: &Memory) -> Locker {
        Locker::builder(Arc::new(store.clone()))
            .clock(Arc::clone(clock))
            .start()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_report_that_takes_longer_than_the_lock_ttl_keeps_its_lock() {
        let (clock, _, locker) = world().await;
        assert!(PAGE * 5 > locker.timing().lock_ttl);
        let (outcome, ()) = tokio::join!(nightly(&locker, 5), pass(&clock, PAGE * 6));
        assert_eq!(outcome.unwrap(), Outcome::Written(5));
    }

    #[tokio::test]
    async fn the_second_worker_leaves_the_report_to_the_first() {
        let (clock, store, first) = world().await;
        let second = worker(&clock, &store).await;
        let (written, busy) = tokio::join!(nightly(&first, 1), async {
            pass(&clock, PAGE / 2).await;
            let busy = nightly(&second, 1).await;
            pass(&clock, PAGE).await;
            busy
        });
        assert_eq!(written.unwrap(), Outcome::Written(1));
        assert_eq!(busy.unwrap(), Outcome::Busy);
    }

    #[tokio::test]
    async fn a_report_whose_lock_is_taken_away_is_not_written() {
        let (clock, _, locker) = world().await;
        let (outcome, ()) = tokio::join!(nightly(&locker, 5), async {
            pass(&clock, PAGE).await;
            let holder = locker
                .read_lock_data("nightly-report")
                .await
                .unwrap()
                .unwrap();
            locker
                .force_release(&holder.owner, Force::Mark)
                .await
                .unwrap();
            pass(&clock, PAGE).await;
        });
        let Err(ReportError::Lock(RunError::Lost { loss, .. })) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(loss.reason, LossReason::ForceReleased);
    }

    #[tokio::test]
    async fn a_worker_that_drains_interrupts_its_report() {
        let (clock, _, locker) = world().await;
        let (outcome, ()) = tokio::join!(nightly(&locker, 5), async {
            pass(&clock, PAGE).await;
            locker.drain("a new version is coming");
            pass(&clock, PAGE).await;
        });
        assert!(matches!(
            outcome,
            Err(ReportError::Stopped(Interrupted::Draining(_)))
        ));
    }

    /// The work itself needs neither a lock nor a store.
    #[tokio::test(start_paused = true)]
    async fn the_pages_are_counted() {
        assert_eq!(write_pages(&Heartbeater::noop(), 3).await.unwrap(), 3);
    }
}
