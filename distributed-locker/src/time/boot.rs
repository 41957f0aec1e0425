//! The machine's clock since boot.

use locker_core::{Clock, Instant, Timestamp};
use nix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The machine's clock since boot, which runs during suspend.
///
/// # What it reads
///
/// `CLOCK_BOOTTIME` is slewed by time daemons (chrony: by up to 8.4 %), so it may run slow;
/// `CLOCK_MONOTONIC_RAW` is never slewed, but stops during suspend. Elapsed time is the larger of
/// the two: this clock is the boot clock plus everything by which the raw clock has ever gained on
/// it. That lead only grows, so this clock never runs slower than either of them, and an owner
/// that lives by it stops early rather than late.
///
/// The lead is shared by the process. A reading compares the two clocks if nobody has done so for
/// five milliseconds; otherwise it costs one clock reading and two atomic loads.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock(());

/// By how many nanoseconds this clock is ahead of the boot clock.
static LEAD: AtomicU64 = AtomicU64::new(0);
/// Raw clock minus boot clock, when the lead was last corrected.
static LAST_GAP: AtomicI64 = AtomicI64::new(i64::MIN);
/// When the two clocks were last compared, on the boot clock.
static COMPARED: AtomicU64 = AtomicU64::new(0);
/// Held while the lead is being corrected.
static CORRECTION: Mutex<()> = Mutex::new(());

/// How long a comparison of the clocks is good for: slewing by 10 % makes half a millisecond of it.
const COMPARE_EVERY_NANOS: u64 = 5_000_000;

/// A smaller change of the gap is left for later.
const TOLERANCE_NANOS: u64 = 1_000_000;

impl BootClock {
    /// The clock of this machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same moment on the kernel's boot clock, which timers need.
    pub(super) fn on_boot_clock(at: Instant) -> Duration {
        Duration::from_nanos(at.as_nanos().saturating_sub(LEAD.load(Ordering::Acquire)))
    }
}

impl Clock for BootClock {
    fn now(&self) -> Instant {
        let boot = read(ClockId::CLOCK_BOOTTIME);
        if boot.wrapping_sub(COMPARED.load(Ordering::Acquire)) > COMPARE_EVERY_NANOS {
            COMPARED.store(boot, Ordering::Release);
            let gap = gap(boot, read(ClockId::CLOCK_MONOTONIC_RAW));
            if gap.abs_diff(LAST_GAP.load(Ordering::Acquire)) > TOLERANCE_NANOS {
                correct();
            }
        }
        Instant::from_nanos(boot.saturating_add(LEAD.load(Ordering::Acquire)))
    }

    fn wall(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_micros(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Notes by how much the raw clock has gained on the boot clock.
fn correct() {
    let _alone = CORRECTION.lock().unwrap_or_else(PoisonError::into_inner);
    // The gap that was seen may only be a pause between two readings: measure it well.
    let Some((_, now)) = (0..16)
        .map(|_| {
            let before = read(ClockId::CLOCK_BOOTTIME);
            let raw = read(ClockId::CLOCK_MONOTONIC_RAW);
            let after = read(ClockId::CLOCK_BOOTTIME);
            (after - before, gap(before + (after - before) / 2, raw))
        })
        .min_by_key(|(uncertainty, _)| *uncertainty)
    else {
        return;
    };
    let last = LAST_GAP.load(Ordering::Acquire);
    if last == i64::MIN {
        LAST_GAP.store(now, Ordering::Release);
    } else if now.abs_diff(last) > TOLERANCE_NANOS {
        if now > last {
            LEAD.fetch_add(now.abs_diff(last), Ordering::AcqRel);
        }
        LAST_GAP.store(now, Ordering::Release);
    }
}

fn gap(boot: u64, raw: u64) -> i64 {
    i64::try_from(raw).unwrap_or(i64::MAX) - i64::try_from(boot).unwrap_or(i64::MAX)
}

/// Nanoseconds of a clock of the kernel.
pub(super) fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux since 2.6.39, so an error is a sandbox that forbids them.
    let Ok(time) = clock_gettime(clock) else {
        return u64::MAX;
    };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::super::WallClock;
    use super::*;

    /// A1: a time daemon slews the wall clock and the boot clock together, and slow. This clock makes
    /// up for it, and the wall clock does not.
    #[test]
    fn what_this_clock_makes_up_for_is_no_step_of_the_wall_clock() {
        let mut wall = WallClock::default();
        assert_eq!(wall.look(), Duration::ZERO);
        // Too little for the other tests to notice.
        let gained = Duration::from_millis(20);
        LEAD.fetch_add(20_000_000, Ordering::AcqRel);
        let moved = wall.look();
        assert!(moved < gained / 2, "the wall clock has moved by {moved:?}");
    }

    #[test]
    fn it_runs_with_the_boot_clock_and_never_back() {
        let clock = BootClock::new();
        let mut last = clock.now();
        let boot = read(ClockId::CLOCK_BOOTTIME);
        assert!(last.as_nanos().abs_diff(boot) < 1_000_000_000);
        for _ in 0..100_000 {
            let now = clock.now();
            assert!(now >= last, "{now:?} is before {last:?}");
            last = now;
        }
    }
}
