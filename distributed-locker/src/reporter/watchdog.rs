//! The loop that tells losses in time.

use crate::shared::Shared;
use crate::time::Alarm;
use locker_core::Instant;
use std::convert::Infallible;
use std::sync::Arc;

/// Watches every deadline, for ever.
pub(super) async fn run(shared: &Arc<Shared>, mut alarm: Alarm) -> Infallible {
    loop {
        let next = shared.registry.judge(|entry| match entry.judge(shared) {
            Ok(next) => next,
            // Announced; what the former owner leaves is the upkeep's business.
            Err(_) => Instant::FAR_FUTURE,
        });
        tokio::select! {
            () = alarm.ring(next) => {}
            () = shared.bells.watchdog.notified() => {}
        }
    }
}
