//! The clocks of the system, each with a type of its own, so that no two are ever compared by
//! mistake.
//!
//! | type | whose clock | what for |
//! | --- | --- | --- |
//! | [`Instant`] | the owner's machine, since boot | every deadline of an owner |
//! | [`StoreTime`] | the store | `not_after`, and nothing else |
//! | [`Timestamp`] | a wall clock | people, and the numbers of fencing tokens |

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Sub};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A moment of the owner's clock, in nanoseconds since its machine booted.
///
/// It runs during suspend, unlike `std::time::Instant`. Arithmetic saturates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment of boot.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes.
    pub const FAR_FUTURE: Self = Self(u64::MAX);

    /// The moment `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{:?}", Duration::from_nanos(self.0))
    }
}

/// A moment of the store's own clock, in microseconds. Only a store's answers and `not_after` are
/// ever compared by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreTime(u64);

impl StoreTime {
    /// The moment `micros` microseconds after the beginning of the store's clock.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the beginning of the store's clock.
    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for StoreTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

/// What an owner knows about its store's clock: the last store time it was told, and when.
///
/// Every answer bears the store's time. Between answers the estimate runs with the owner's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreClock {
    last: Option<(StoreTime, Instant)>,
}

impl StoreClock {
    /// Notes the store time of an answer that arrived at `now`.
    ///
    /// Answers how far the store's clock has moved against the owner's since the answer before, if
    /// by more than `tolerance`: a clock that was stepped, or another server after a fail-over.
    pub fn observe(
        &mut self,
        now: Instant,
        told: StoreTime,
        tolerance: Duration,
    ) -> Option<ClockJump> {
        let expected = self.estimate(now);
        self.last = Some((told, now));
        let expected = expected?;
        let by = Duration::from_micros(told.0.abs_diff(expected.0));
        (by > tolerance).then_some(if told > expected {
            ClockJump::Forward(by)
        } else {
            ClockJump::Back(by)
        })
    }

    /// The store's time at `now`, at most one round trip behind; `None` before the first answer.
    pub fn estimate(&self, now: Instant) -> Option<StoreTime> {
        self.last.map(|(told, at)| told + now.since(at))
    }
}

/// How a store's clock moved against the owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockJump {
    /// It is ahead of where it was expected.
    Forward(Duration),
    /// It is behind where it was expected.
    Back(Duration),
}

/// A wall-clock time in microseconds since 1970-01-01 UTC: for people, and for token numbers. No
/// deadline depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

/// A source of time. The core itself never calls it: only the memory store does, which has no
/// server to ask, and the driver.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The owner's clock.
    fn now(&self) -> Instant;
    /// The wall clock.
    fn wall(&self) -> Timestamp;
}

/// A clock that moves only when it is told to: virtual time for unit tests and the simulator.
///
/// ```
/// # use locker_core::{Clock, ManualClock};
/// # use std::time::Duration;
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(300));
/// assert_eq!(clock.now().since(before), Duration::from_secs(300));
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    state: Mutex<ManualState>,
}

#[derive(Debug, Default)]
struct ManualState {
    elapsed: Duration,
    next_sleeper: u64,
    sleepers: BTreeMap<(Instant, u64), Waker>,
    /// Sleepers that were woken and have not looked yet.
    woken: u64,
    /// Threads that say when they have nothing to do.
    busy_threads: u64,
}

/// One wait on a [`ManualClock`]; it holds the place of its waker between polls.
#[derive(Debug, Default)]
pub struct ManualSleep {
    place: Option<(Instant, u64)>,
}

impl ManualClock {
    /// Far enough from zero that no subtraction saturates in a test.
    const BOOT: Instant = Instant::from_nanos(1_000_000_000_000);
    /// 2026-01-01 00:00:00 UTC.
    const EPOCH: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

    /// A clock that stands still.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the clock and wakes every sleeper whose time has come.
    pub fn advance(&self, by: Duration) {
        let due: Vec<Waker> = {
            let mut state = self.lock();
            state.elapsed += by;
            let now = Self::BOOT + state.elapsed;
            let later = state.sleepers.split_off(&(now, u64::MAX));
            let due = std::mem::replace(&mut state.sleepers, later);
            state.woken += due.len() as u64;
            due.into_values().collect()
        };
        due.into_iter().for_each(Waker::wake);
    }

    /// When the next sleeper wants to be woken.
    pub fn next_wake(&self) -> Option<Instant> {
        self.lock()
            .sleepers
            .keys()
            .next()
            .map(|(deadline, _)| *deadline)
    }

    /// Polls a wait until `deadline`: ready once the clock has reached it.
    pub fn poll_sleep(
        &self,
        sleep: &mut ManualSleep,
        deadline: Instant,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let mut state = self.lock();
        state.forget(sleep);
        if Self::BOOT + state.elapsed >= deadline {
            return Poll::Ready(());
        }
        let place = (deadline, state.next_sleeper);
        state.next_sleeper += 1;
        state.sleepers.insert(place, context.waker().clone());
        sleep.place = Some(place);
        Poll::Pending
    }

    /// Ends a wait before its time.
    pub fn forget_sleep(&self, sleep: &mut ManualSleep) {
        self.lock().forget(sleep);
    }

    /// Says that a thread that lives by this clock has something to do, or has not any more.
    /// A thread counts as idle before its first call.
    pub fn set_busy(&self, busy: bool) {
        let mut state = self.lock();
        if busy {
            state.busy_threads += 1;
        } else {
            state.busy_threads = state.busy_threads.saturating_sub(1);
        }
    }

    /// Whether everything that was woken has looked, and no thread has anything to do: only then
    /// may a test move the clock on, if it wants one history and not a race.
    pub fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.woken == 0 && state.busy_threads == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ManualState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ManualState {
    fn forget(&mut self, sleep: &mut ManualSleep) {
        if let Some(place) = sleep.place.take()
            && self.sleepers.remove(&place).is_none()
        {
            self.woken = self.woken.saturating_sub(1);
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Self::BOOT + self.lock().elapsed
    }

    fn wall(&self) -> Timestamp {
        Self::EPOCH + self.lock().elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_runs_with_the_owners_clock_and_a_jump_is_seen() {
        let mut clock = StoreClock::default();
        let start = Instant::from_nanos(5_000_000_000);
        let tolerance = Duration::from_millis(200);
        assert_eq!(clock.estimate(start), None);
        assert_eq!(
            clock.observe(start, StoreTime::from_micros(100), tolerance),
            None
        );
        let later = start + Duration::from_secs(1);
        assert_eq!(
            clock.estimate(later),
            Some(StoreTime::from_micros(1_000_100))
        );
        let jump = clock.observe(later, StoreTime::from_micros(4_000_100), tolerance);
        assert_eq!(jump, Some(ClockJump::Forward(Duration::from_secs(3))));
    }
}
