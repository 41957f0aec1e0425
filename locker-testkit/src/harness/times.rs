//! The times of a case: so short that a fault of three liveness TTLs takes seconds.

use crate::scaled;
use distributed_locker::{BootClock, Clock, Timing};
use std::time::Duration;

/// The times of a case, all in proportion to T.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// T, the liveness TTL.
    pub t: Duration,
}

impl Times {
    /// T is one second, unless a store only knows whole seconds.
    pub const SCALED: Self = Self {
        t: Duration::from_secs(1),
    };

    /// What the lockers of a case run with.
    pub fn timing(self) -> Timing {
        scaled(self.t)
    }

    /// When the liveness record of a silent process has run out, and somebody has noticed.
    pub fn taken_over(self) -> Duration {
        self.t + self.timing().report_every + Duration::from_millis(500)
    }

    /// How long two owners may overlap where the fault itself takes the ground from under them.
    pub fn noticed(self) -> Duration {
        let timing = self.timing();
        timing.report_every.max(timing.recheck_every) + timing.request_timeout * 2
    }

    /// A scheduling gap that makes a case worthless.
    pub fn stalled(self) -> Duration {
        self.t / 5
    }
}

/// Microseconds of the clock that all processes of the machine share.
pub fn micros() -> u64 {
    BootClock::new().now().as_nanos() / 1000
}

/// A duration in microseconds.
pub fn as_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
