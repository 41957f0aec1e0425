//! A machine's clock, which runs at a rate of its own (A1).

use locker_core::Instant;
use std::time::Duration;

/// A clock that shows more or less than the true time that passes.
#[derive(Debug, Clone, Copy)]
pub struct DriftingClock {
    booted: Instant,
    rate_permille: u64,
    /// From when until when it stood still.
    halted: Option<(Duration, Duration)>,
}

impl DriftingClock {
    /// A clock that showed `booted` when the history began, and gains or loses ever since.
    pub fn new(booted: Instant, rate_permille: u32) -> Self {
        Self {
            booted,
            rate_permille: u64::from(rate_permille.max(1)),
            halted: None,
        }
    }

    /// Stands still for a while, once.
    pub fn halt(&mut self, from: Duration, until: Duration) {
        self.halted = self.halted.or(Some((from, until)));
    }

    /// Whether it never stood still.
    pub fn is_true(&self) -> bool {
        self.halted.is_none()
    }

    /// What it shows at a true moment.
    pub fn read(&self, at: Duration) -> Instant {
        let at = match self.halted {
            Some((from, until)) if at > from => {
                at.saturating_sub(until.min(at).saturating_sub(from))
            }
            _ => at,
        };
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        self.booted + Duration::from_nanos(nanos.saturating_mul(self.rate_permille) / 1000)
    }

    /// The first true moment at which it shows this.
    pub fn when(&self, shown: Instant) -> Duration {
        let nanos = u64::try_from(shown.since(self.booted).as_nanos()).unwrap_or(u64::MAX);
        let at = Duration::from_nanos(nanos.saturating_mul(1000).div_ceil(self.rate_permille));
        match self.halted {
            Some((from, until)) if at > from => at + until.saturating_sub(from),
            _ => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_never_rings_before_its_clock_shows_the_time() {
        for rate in [950, 999, 1000, 1001, 1055] {
            let clock = DriftingClock::new(Instant::from_nanos(77), rate);
            for nanos in (0..5_000_000_000_u64).step_by(333_333_331) {
                let shown = clock.booted + Duration::from_nanos(nanos);
                assert!(clock.read(clock.when(shown)) >= shown);
            }
        }
    }
}
