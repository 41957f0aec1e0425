//! The loop that lets the store forget: locks that have been free, and processes that have been dead,
//! for longer than the retention (L8). Any process does it for all of them, so it is rare.

use crate::link::Link;
use crate::shared::Shared;
use crate::time::Alarm;
use locker_core::backend::RETENTION;
use locker_core::machine::Jitter;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// After the start, so that a process that restarts often sweeps as well.
const FIRST: Duration = Duration::from_secs(10 * 60);
const EVERY: Duration = Duration::from_secs(60 * 60);

/// Sweeps now and then, for ever.
pub(super) async fn run(shared: &Arc<Shared>, link: &Link, mut alarm: Alarm) -> Infallible {
    // Processes that start together do not sweep together.
    let mut jitter = Jitter::new(shared.time.now().as_nanos() ^ u64::from(shared.made_in.pid()));
    let mut next = shared.time.now() + jitter.up_to(FIRST);
    loop {
        while shared.time.now() < next {
            alarm.ring(next).await;
        }
        // What was not swept now is swept the next time.
        let _ = link.call(async |store| store.sweep(RETENTION).await).await;
        next = shared.time.now() + jitter.up_to(EVERY);
    }
}
