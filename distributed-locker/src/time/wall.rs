//! Whether the machine's wall clock was stepped, or its boot clock stopped (A4).
//!
//! The two are compared with each other, and neither with the clock that deadlines go by. A time daemon
//! slews both together: to the kernel they are one clock, read with different offsets, and also after a
//! suspend the same time is added to both. So their difference changes by a step (or a leap second) only,
//! however long the look before is ago. The clock of deadlines runs ahead of them where they are slewed
//! slow: by as much as A1 allows, which says nothing about a pause.

use super::boot::{self, BootClock};
use locker_core::Clock;
use nix::time::ClockId;
use std::time::Duration;

/// The wall clock, as it stood to the boot clock at the last look.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    last: Option<Gap>,
}

/// Wall clock minus boot clock, in microseconds: at least and at most, for they cannot be read at the
/// same moment.
#[derive(Debug, Clone, Copy)]
struct Gap {
    least: i128,
    most: i128,
}

impl Gap {
    /// The wall clock was read between two readings of the boot clock.
    fn new(before_nanos: u64, wall_micros: u64, after_nanos: u64) -> Self {
        let wall = i128::from(wall_micros);
        Self {
            least: wall - i128::from(after_nanos.div_ceil(1000)),
            most: wall - i128::from(before_nanos / 1000),
        }
    }
}

impl WallClock {
    /// Of two readings that lie further apart, a thread has lost its processor between them.
    const FURTHEST_MICROS: i128 = 10_000;

    /// From now on.
    pub(crate) fn begin() -> Self {
        let mut wall = Self::default();
        wall.look();
        wall
    }

    /// By how much the wall clock has moved against the boot clock since the last look, at least.
    pub(crate) fn look(&mut self) -> Duration {
        let before = boot::read(ClockId::CLOCK_BOOTTIME);
        let wall = BootClock::new().wall().as_micros();
        let after = boot::read(ClockId::CLOCK_BOOTTIME);
        self.compare(Gap::new(before, wall, after))
    }

    fn compare(&mut self, gap: Gap) -> Duration {
        // It would prove little, and the next look could prove no more against it.
        if gap.most - gap.least > Self::FURTHEST_MICROS {
            return Duration::ZERO;
        }
        let Some(last) = self.last.replace(gap) else {
            return Duration::ZERO;
        };
        let moved = (gap.least - last.most).max(last.least - gap.most).max(0);
        Duration::from_micros(u64::try_from(moved).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01 00:00:00 UTC, an hour after boot.
    const WALL_MICROS: u64 = 1_767_225_600_000_000;
    const BOOT_NANOS: u64 = 3_600_000_000_000;

    /// A look that begins `millis` after the first one, at a wall clock that is ahead by so much. The
    /// thread loses its processor for so long before it reads that clock, and after it.
    fn look(wall: &mut WallClock, millis: u64, ahead: i64, lost: (u64, u64)) -> Duration {
        let before = BOOT_NANOS + millis * 1_000_000;
        let passed = ((millis + lost.0) * 1000).checked_add_signed(ahead * 1000);
        let shown = WALL_MICROS + passed.expect("it is not so far back");
        let after = before + (lost.0 + lost.1) * 1_000_000;
        wall.compare(Gap::new(before, shown, after))
    }

    /// A4: forward after a pause that the boot clock has not seen, or when it is set.
    #[test]
    fn a_step_of_the_wall_clock_is_seen_once_in_either_direction() {
        let mut wall = WallClock::default();
        let mut look = |millis, ahead| look(&mut wall, millis, ahead, (0, 0));
        assert_eq!(look(0, 0), Duration::ZERO);
        assert_eq!(look(2000, 300), Duration::from_millis(300));
        assert_eq!(look(4000, 300), Duration::ZERO);
        assert_eq!(look(6000, -500), Duration::from_millis(800));
    }

    #[test]
    fn a_thread_that_loses_its_processor_between_two_readings_has_seen_no_step() {
        let mut wall = WallClock::default();
        for (millis, lost) in [
            (0, (0, 0)),
            (2000, (9, 0)),
            (4000, (250, 0)),
            (6000, (0, 9)),
        ] {
            assert_eq!(look(&mut wall, millis, 0, lost), Duration::ZERO);
        }
    }

    #[test]
    fn a_step_beside_a_look_that_was_interrupted_is_seen_by_the_next() {
        let mut wall = WallClock::default();
        let mut look = |millis, ahead, lost| look(&mut wall, millis, ahead, lost);
        assert_eq!(look(0, 0, (0, 0)), Duration::ZERO);
        assert_eq!(look(2000, 240, (0, 250)), Duration::ZERO);
        assert_eq!(look(4000, 240, (0, 0)), Duration::from_millis(240));
    }
}
