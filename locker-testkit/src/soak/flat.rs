//! A number of cycles instead of hours: what the tests of the stores run.

use super::{Cycles, Report};
use distributed_locker::{Connect, StartError, Timing};
use std::env;
use std::sync::Arc;
use std::time::Instant;

/// The full number of cycles where `LOCKER_FLAT=full` asks for it, and otherwise the short one.
pub fn cycles(short: u64, full: u64) -> u64 {
    match env::var("LOCKER_FLAT").as_deref() {
        Ok("full") => full,
        _ => short,
    }
}

/// Runs so many cycles on a store, and compares one tenth of them with their end (L8). At both moments
/// nothing is under way, and `look` is called: what the server needs is seen there.
///
/// # Errors
///
/// [`StartError`], if a locker does not start.
///
/// # Cancel safety
///
/// When it is dropped the cycles end.
pub async fn flat(
    store: [Arc<dyn Connect>; 2],
    cycles: u64,
    mut look: impl FnMut(),
) -> Result<Report, StartError> {
    let running = Cycles::start(store, Timing::default(), 7).await?;
    let began = Instant::now();
    running.run_to(cycles / 10).await;
    let early = running.at_rest().await;
    look();
    running.run_to(cycles).await;
    let late = running.at_rest().await;
    look();
    Ok(Report::of(&running, began.elapsed(), Some(early), late))
}
