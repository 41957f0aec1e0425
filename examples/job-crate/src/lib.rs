//! A crate with a job of its own, as a user would write it, and how its author tests it.
//!
//! The job writes a report page by page. The tests below run it on the memory store in virtual time:
//! waiting five minutes costs nothing, and nothing depends on how busy the machine is.

use distributed_locker::{AcquireOptions, Interrupted, Heartbeater, Locker, Run, RunError};
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
