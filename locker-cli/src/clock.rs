//! The boot clock, the only clock of deadlines: it runs while the machine sleeps.

use locker_core::Instant;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Now, by the boot clock.
///
/// A clock that cannot be read must never make a deadline look far away: it reads as the end of
/// time, at which everything has expired.
pub(crate) fn now() -> Instant {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Instant::FAR_FUTURE, |time| {
        let nanos = Duration::from(time).as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    })
}

/// A moment as the kernel's timers want it.
pub(crate) fn to_timespec(at: Instant) -> nix::sys::time::TimeSpec {
    Duration::from_nanos(at.as_nanos()).into()
}
