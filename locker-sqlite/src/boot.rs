//! Time. SQLite has no server and so no clock: the store's clock is the boot clock of the machine,
//! which is the owner's clock as well, so no drift is possible.
//!
//! A boot clock means something only together with *which boot*, and with the time namespace, which
//! shifts it. [`Boot`] names both; the file remembers under which of them its times were written.

use crate::error;
use locker_core::{BackendError, StoreTime, Timestamp};
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Whose boot clock it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    /// The kernel's own name of this boot.
    pub(crate) id: String,
    /// The time namespace; a constant on kernels that have none.
    pub(crate) time_namespace: String,
}

impl Boot {
    /// The boot and the time namespace of this process.
    pub(crate) fn current() -> Result<Self, BackendError> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        const TIME_NAMESPACE: &str = "/proc/self/ns/time";
        let id = std::fs::read_to_string(BOOT_ID).map_err(|cause| {
            error::config(format!(
                "{BOOT_ID} cannot be read, so times of this boot cannot be told from those of \
                 another; mount /proc"
            ))
            .with_source(cause)
        })?;
        let time_namespace = std::fs::read_link(TIME_NAMESPACE).map_or_else(
            |_| "none".to_owned(),
            |link| link.to_string_lossy().into_owned(),
        );
        Ok(Self {
            id: id.trim().to_owned(),
            time_namespace,
        })
    }
}

/// The moment of one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Nanoseconds since boot.
    nanos: i64,
    /// For people, and for the numbers of tokens.
    pub(crate) wall: Timestamp,
}

impl Now {
    /// Reads both clocks.
    pub(crate) fn read() -> Result<Self, BackendError> {
        let read = |clock: ClockId| {
            clock_gettime(clock).map(Duration::from).map_err(|cause| {
                error::config("the kernel has no boot clock".to_owned()).with_source(cause)
            })
        };
        let boot = read(ClockId::CLOCK_BOOTTIME)?;
        let wall = read(ClockId::CLOCK_REALTIME)?;
        Ok(Self {
            nanos: saturated(boot.as_nanos()),
            wall: Timestamp::from_micros(u64::try_from(wall.as_micros()).unwrap_or(u64::MAX)),
        })
    }

    /// Nanoseconds since boot, as the file keeps them.
    pub(crate) fn nanos(self) -> i64 {
        self.nanos
    }

    /// What a record expires at that lives `ttl` from now.
    pub(crate) fn plus(self, ttl: Duration) -> i64 {
        self.nanos.saturating_add(saturated(ttl.as_nanos()))
    }

    /// How long something that expires at `expires` has left.
    pub(crate) fn until(self, expires: i64) -> Duration {
        let left = expires.saturating_sub(self.nanos);
        Duration::from_nanos(u64::try_from(left).unwrap_or(0))
    }

    /// The store's time.
    pub(crate) fn store_time(self) -> StoreTime {
        StoreTime::from_micros(u64::try_from(self.nanos / 1000).unwrap_or(0))
    }

    /// The wall clock in microseconds, as the file keeps it.
    pub(crate) fn wall_micros(self) -> i64 {
        saturated(u128::from(self.wall.as_micros()))
    }
}

fn saturated(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
