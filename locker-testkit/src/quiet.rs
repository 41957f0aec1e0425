//! Times so long that nothing happens.

use locker_core::Timing;
use std::time::Duration;

/// Times at which nothing happens by itself during a test: what the server is asked then, somebody has
/// asked for.
pub const QUIET: Timing = Timing {
    liveness_ttl: Duration::from_secs(3600),
    report_every: Duration::from_secs(1200),
    lock_ttl: Duration::from_secs(36_000),
    extend_every: Duration::from_secs(7200),
    recheck_every: Duration::from_secs(3600),
    request_timeout: Duration::from_secs(20),
    retry_after: Duration::from_millis(250),
    drift_permille: 100,
    stop_budget: Duration::from_millis(1500),
    hard_margin: Duration::from_millis(200),
    start_timeout: Duration::from_secs(30),
};
