//! The store's clock as this process has heard of it, and how often its jumps are told: each direction at
//! most once per recheck interval, unless it jumps more than twice as far.
//!
//! Every answer bears the store's time, and a store may go on jumping: two primaries of a cluster whose
//! clocks differ answer in turns. Without a limit that would be an event per answer, and nobody would see
//! the others. A jump forward touches A3, and one back does not, so neither hides the other.

use locker_core::time::{ClockJump, StoreClock};
use locker_core::{Instant, StoreTime, Timing};
use std::time::Duration;

/// What is known about the store's clock, and when its jumps were told.
#[derive(Debug, Default)]
pub(crate) struct WatchedClock {
    pub(crate) clock: StoreClock,
    forward: Option<Told>,
    back: Option<Told>,
}

/// A jump that was told.
#[derive(Debug)]
struct Told {
    at: Instant,
    far: Duration,
}

impl WatchedClock {
    /// Notes an answer to what was sent then. Answers a jump that is to be told.
    pub(crate) fn hear(
        &mut self,
        sent: Instant,
        told: StoreTime,
        now: Instant,
        timing: &Timing,
    ) -> Option<ClockJump> {
        let jump = self.clock.observe(sent, told, now, timing)?;
        let (last, far) = match jump {
            ClockJump::Forward(far) => (&mut self.forward, far),
            ClockJump::Back(far) => (&mut self.back, far),
        };
        // A step is seen once. A small one before it must not hide one of an hour.
        let is_more_of_it = last
            .as_ref()
            .is_some_and(|last| now.since(last.at) < timing.recheck_every && far <= last.far * 2);
        if is_more_of_it {
            return None;
        }
        *last = Some(Told { at: now, far });
        Some(jump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that is first adjusted a little, and then set to another hour.
    #[test]
    fn a_small_jump_hides_no_large_one() {
        let timing = Timing::default();
        let mut clock = WatchedClock::default();
        let mut jump_by = |seconds, ahead: Duration| {
            let passed = Duration::from_secs(seconds);
            let (now, store) = (Instant::ZERO + passed, StoreTime::from_micros(0) + passed);
            clock.hear(now, store + ahead, now, &timing)
        };
        let (little, hour) = (Duration::from_millis(700), Duration::from_secs(3600));
        assert_eq!(jump_by(0, Duration::ZERO), None);
        assert_eq!(jump_by(1, little), Some(ClockJump::Forward(little)));
        assert_eq!(jump_by(2, little * 2), None, "more of it");
        assert_eq!(
            jump_by(3, little * 2 + hour),
            Some(ClockJump::Forward(hour))
        );
    }

    /// Two primaries whose clocks differ by 3 s answer in turns, for 11 s.
    #[test]
    fn a_clock_that_goes_on_jumping_is_told_once_per_interval_and_direction() {
        let timing = Timing::default();
        let mut clock = WatchedClock::default();
        let mut told = Vec::new();
        for millis in (0..11_000).step_by(100) {
            let passed = Duration::from_millis(millis);
            let skew = Duration::from_secs(if millis % 200 == 0 { 0 } else { 3 });
            let (now, store) = (Instant::ZERO + passed, StoreTime::from_micros(0) + passed);
            if let Some(jump) = clock.hear(now, store + skew, now, &timing) {
                told.push((millis, matches!(jump, ClockJump::Forward(_))));
            }
        }
        let expected = [100, 200, 5100, 5200, 10_100, 10_200].map(|at| (at, at % 200 != 0));
        assert_eq!(told, expected);
    }
}
