//! Every duration of the system in one validated type, and the formula for "valid until".

use crate::backend::Limits;
use crate::time::Instant;
use std::time::Duration;

/// All durations of a locker. Start from [`Timing::default`] and change what you must. Each is from 1 ms to
/// 30 days. With δ for the drift, `drift_permille / 1000`:
///
/// * `liveness_ttl · (1 − δ) − stop_budget − hard_margin > report_every + request_timeout + retry_after`.
///   So one report may fail, and the next one still comes in time; with the other defaults, a liveness TTL is
///   longer than 6.1 s.
/// * `lock_ttl · (1 − δ) − stop_budget − hard_margin > extend_every + 2 · request_timeout`, and a lock TTL is
///   not shorter than the liveness TTL; with the other defaults, it is longer than 71.9 s.
/// * etcd takes whole seconds for both.
///
/// ```
/// # use locker_core::Timing;
/// # use std::time::Duration;
/// let timing = Timing { liveness_ttl: Duration::from_secs(20), ..Timing::default() };
/// assert!(timing.validate().is_ok());
/// assert!(Timing { report_every: Duration::from_secs(20), ..timing }.validate().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timing {
    /// T: a process that has not reported for this long is dead. 10 s.
    pub liveness_ttl: Duration,
    /// H: how often a process reports that it lives. 2 s.
    pub report_every: Duration,
    /// L: how long a lock record lives without being extended. 5 min.
    pub lock_ttl: Duration,
    /// How often held locks are extended. 60 s.
    pub extend_every: Duration,
    /// How often held locks are checked. 5 s.
    pub recheck_every: Duration,
    /// How long one request to the store may take. 1.5 s.
    pub request_timeout: Duration,
    /// How soon a failed report is repeated. 250 ms.
    pub retry_after: Duration,
    /// By how much the rates of two clocks may differ, in parts per thousand. 100, that is 10 %
    /// (A1). Stores that share the owner's clock count 0, whatever is set here.
    pub drift_permille: u32,
    /// How long before the hard deadline a job is told to stop. 1.5 s.
    pub stop_budget: Duration,
    /// What is kept free between the owner's last valid moment and the first moment at which
    /// anybody else may own. 200 ms.
    pub hard_margin: Duration,
    /// How long the start waits for the first confirmed report. 15 s.
    pub start_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            liveness_ttl: Duration::from_secs(10),
            report_every: Duration::from_secs(2),
            lock_ttl: Duration::from_secs(300),
            extend_every: Duration::from_secs(60),
            recheck_every: Duration::from_secs(5),
            request_timeout: Duration::from_millis(1500),
            retry_after: Duration::from_millis(250),
            drift_permille: Self::DRIFT_PERMILLE,
            stop_budget: Duration::from_millis(1500),
            hard_margin: Duration::from_millis(200),
            start_timeout: Duration::from_secs(15),
        }
    }
}

impl Timing {
    /// By how much clocks may differ in rate by default, as [`drift_permille`](Self::drift_permille).
    const DRIFT_PERMILLE: u32 = 100;

    /// Refuses nonsense, naming the fields that do not fit together.
    ///
    /// # Errors
    ///
    /// [`InvalidTiming`], whose text names the fields. Nothing has been sent to any store.
    pub fn validate(&self) -> Result<(), InvalidTiming> {
        const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
        let all = [
            ("liveness_ttl", self.liveness_ttl),
            ("report_every", self.report_every),
            ("lock_ttl", self.lock_ttl),
            ("extend_every", self.extend_every),
            ("recheck_every", self.recheck_every),
            ("request_timeout", self.request_timeout),
            ("retry_after", self.retry_after),
            ("stop_budget", self.stop_budget),
            ("hard_margin", self.hard_margin),
            ("start_timeout", self.start_timeout),
        ];
        for (field, value) in all {
            if value < Duration::from_millis(1) || value > LONGEST {
                return Err(InvalidTiming::new(format!(
                    "{field} is {value:?}; it must be between 1 ms and 30 days"
                )));
            }
        }
        if self.drift_permille > 500 {
            return Err(InvalidTiming::new(format!(
                "drift_permille is {}; clocks whose rates differ by more than half cannot be \
                 reckoned with",
                self.drift_permille
            )));
        }
        // One report may be lost and its repetition must still arrive before jobs are told to stop.
        let reports = self.report_every + self.request_timeout + self.retry_after;
        let live = self.usable(self.liveness_ttl);
        if live <= reports {
            return Err(InvalidTiming::new(format!(
                "liveness_ttl {:?} leaves {live:?} of validity after drift_permille, hard_margin \
                 and stop_budget; report_every + request_timeout + retry_after need more than \
                 {reports:?}",
                self.liveness_ttl
            )));
        }
        let extends = self.extend_every + 2 * self.request_timeout;
        let held = self.usable(self.lock_ttl);
        if held <= extends {
            return Err(InvalidTiming::new(format!(
                "lock_ttl {:?} leaves {held:?} of validity after drift_permille, hard_margin and \
                 stop_budget; extend_every + 2 x request_timeout need more than {extends:?}",
                self.lock_ttl
            )));
        }
        if self.lock_ttl < self.liveness_ttl {
            return Err(InvalidTiming::new(format!(
                "lock_ttl {:?} is shorter than liveness_ttl {:?}: the lock of a living process \
                 would end before its liveness",
                self.lock_ttl, self.liveness_ttl
            )));
        }
        Ok(())
    }

    /// The same durations as they count at a store with these limits.
    ///
    /// A store that finds a process dead after a shorter time than the liveness TTL
    /// ([`Limits::dead_after`]) has everything that must fit into that time shortened with it: five
    /// reports fit in, a request takes a quarter of it, and so on. What is shorter already stays.
    ///
    /// # Errors
    ///
    /// [`InvalidTiming`] as [`validate`](Self::validate), and when a TTL is below or between what
    /// the store can keep.
    pub fn for_store(mut self, limits: &Limits) -> Result<Self, InvalidTiming> {
        if limits.shares_owner_clock {
            self.drift_permille = 0;
        }
        if let Some(dead_after) = limits.dead_after {
            self = self.with_liveness_of(dead_after);
        }
        for (field, ttl) in [
            ("liveness_ttl", self.liveness_ttl),
            ("lock_ttl", self.lock_ttl),
        ] {
            if ttl < limits.least_ttl {
                return Err(InvalidTiming::new(format!(
                    "{field} is {ttl:?}; this store keeps {:?} or more",
                    limits.least_ttl
                )));
            }
            if ttl.as_nanos() % limits.ttl_granularity.as_nanos().max(1) != 0 {
                return Err(InvalidTiming::new(format!(
                    "{field} is {ttl:?}; this store keeps whole multiples of {:?}",
                    limits.ttl_granularity
                )));
            }
        }
        self.validate()?;
        Ok(self)
    }

    /// Until when a write sent at `sent`, that keeps a record for `ttl`, lets the owner act:
    /// `sent + ttl * (1 - drift) - hard_margin`.
    ///
    /// `sent` is the owner's clock *before* the bytes left. The store counts from when it receives
    /// them, which is later, with a clock that runs at most `drift` faster. So by the time the store
    /// may give the lock away, this moment has passed by at least the hard margin.
    ///
    /// A lock is valid until the smaller of this for its own last write and for the last report of
    /// its process.
    pub fn valid_until(&self, sent: Instant, ttl: Duration) -> Instant {
        sent + self.shortened(ttl) - self.hard_margin
    }

    /// When jobs are told to stop: one stop budget before the hard deadline.
    pub fn soft(&self, hard: Instant) -> Instant {
        hard - self.stop_budget
    }

    /// How long after its own request a create may still take effect, by the store's clock.
    pub fn not_after_patience(&self) -> Duration {
        2 * self.request_timeout
    }

    /// By how much the store's clock and the owner's may disagree about how long `elapsed` was, before
    /// one of them has jumped (A1). A store on the same machine may go by its boot clock, which a time daemon
    /// slews, and the owner's clock does not follow that backwards.
    pub(crate) fn clock_tolerance(&self, elapsed: Duration) -> Duration {
        let drift_permille = match self.drift_permille {
            0 => Self::DRIFT_PERMILLE,
            drift => drift,
        };
        self.hard_margin + elapsed * drift_permille / 1000
    }

    fn with_liveness_of(self, dead_after: Duration) -> Self {
        Self {
            liveness_ttl: dead_after,
            report_every: self.report_every.min(dead_after / 5),
            request_timeout: self.request_timeout.min(dead_after / 4),
            retry_after: self.retry_after.min(dead_after / 20),
            stop_budget: self.stop_budget.min(dead_after / 5),
            hard_margin: self.hard_margin.min(dead_after / 15),
            ..self
        }
    }

    fn shortened(&self, ttl: Duration) -> Duration {
        ttl * (1000 - self.drift_permille) / 1000
    }

    fn usable(&self, ttl: Duration) -> Duration {
        self.shortened(ttl)
            .saturating_sub(self.hard_margin + self.stop_budget)
    }
}

/// A [`Timing`] that leaves no validity, or that a store cannot keep. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the timing does not work: {why}")]
pub struct InvalidTiming {
    why: String,
}

impl InvalidTiming {
    fn new(why: String) -> Self {
        Self { why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_defaults_are_those_of_the_documentation() {
        let timing = Timing::default();
        timing.validate().unwrap();
        let sent = Instant::from_nanos(1_000_000_000_000);
        let hard = timing.valid_until(sent, timing.liveness_ttl);
        assert_eq!(hard.since(sent), Duration::from_millis(8800));
        assert_eq!(timing.soft(hard).since(sent), Duration::from_millis(7300));
    }

    #[test]
    fn nonsense_is_refused_with_the_names_of_the_fields() {
        let good = Timing::default();
        let cases = [
            (
                Timing {
                    report_every: good.liveness_ttl,
                    ..good
                },
                "report_every",
            ),
            (
                Timing {
                    liveness_ttl: Duration::from_secs(2),
                    ..good
                },
                "liveness_ttl",
            ),
            (
                Timing {
                    extend_every: good.lock_ttl,
                    ..good
                },
                "extend_every",
            ),
            (
                Timing {
                    hard_margin: Duration::ZERO,
                    ..good
                },
                "hard_margin",
            ),
            (
                Timing {
                    drift_permille: 900,
                    ..good
                },
                "drift_permille",
            ),
            (
                Timing {
                    lock_ttl: Duration::MAX,
                    ..good
                },
                "lock_ttl",
            ),
        ];
        for (timing, field) in cases {
            let error = timing.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn a_store_that_sees_a_crash_shortens_what_must_fit_into_its_judgement() {
        let limits = |dead_after| Limits {
            least_ttl: Duration::from_millis(1),
            ttl_granularity: Duration::from_micros(1),
            batch: 1,
            lock_ttl_kept_by: crate::backend::KeptBy::Store,
            hints: false,
            wall_clock_expiry: true,
            shares_owner_clock: false,
            dead_after,
            cheap_death_poll: None,
        };
        let given = Timing::default();
        assert_eq!(given.for_store(&limits(None)), Ok(given));
        for millis in [800, 3_000, 30_000] {
            let dead_after = Duration::from_millis(millis);
            let timing = given.for_store(&limits(Some(dead_after))).unwrap();
            assert_eq!(timing.liveness_ttl, dead_after);
            assert_eq!(
                timing.report_every,
                given.report_every.min(dead_after / 5),
                "{millis} ms"
            );
            assert_eq!(timing.lock_ttl, given.lock_ttl);
        }
        let error = given.for_store(&limits(Some(Duration::from_millis(10))));
        assert!(error.unwrap_err().to_string().contains("between 1 ms"));
    }

    proptest! {
        /// Attack 8: the owner's clock slow, the store's fast, both within A1; the owner stops
        /// first all the same.
        #[test]
        fn the_owner_stops_before_the_store_gives_the_lock_away(
            ttl_ms in 1_000_u64..600_000, delay_us in 0_u64..1_000_000, rate in 0_u64..=100,
        ) {
            let timing = Timing::default();
            let ttl = Duration::from_millis(ttl_ms);
            let sent = Instant::from_nanos(1_000_000_000_000);
            let owner_stops = timing.valid_until(sent, ttl);
            // While the store counts the whole TTL, the owner's clock counts only this much of it.
            let on_owners_clock = ttl * u32::try_from(1000 - rate).unwrap() / 1000;
            let store_frees = sent + Duration::from_micros(delay_us) + on_owners_clock;
            prop_assert!(owner_stops + timing.hard_margin <= store_frees);
        }
    }
}
