//! The times of tests: a tenth of the defaults, so that what takes minutes takes seconds.

use locker_core::Timing;
use std::time::Duration;

/// All durations of a locker, in proportion to T, its liveness TTL.
///
/// A request may take longer than in proportion to the defaults: a busy machine does not scale. All
/// processes of a test share one machine and its clocks, so their rates hardly differ.
///
/// ```
/// # use std::time::Duration;
/// let timing = locker_sim::scaled(Duration::from_secs(1));
/// assert_eq!(timing.report_every, Duration::from_millis(200));
/// assert!(timing.validate().is_ok());
/// ```
#[must_use]
pub fn scaled(t: Duration) -> Timing {
    Timing {
        liveness_ttl: t,
        report_every: t / 5,
        lock_ttl: t * 5,
        extend_every: t,
        recheck_every: t / 2,
        request_timeout: t * 3 / 10,
        retry_after: t / 40,
        drift_permille: 20,
        stop_budget: t * 3 / 20,
        hard_margin: t / 50,
        start_timeout: t * 15,
    }
}
