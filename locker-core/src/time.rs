//! The clocks of the system, each with a type of its own, so that no two are ever compared by
//! mistake.
//!
//! | type | whose clock | what for |
//! | --- | --- | --- |
//! | [`Instant`] | the owner's machine, since boot | every deadline of an owner |
//! | [`StoreTime`] | the store | `not_after`, and nothing else |
//! | [`Timestamp`] | a wall clock | people, and the numbers of fencing tokens |

use crate::timing::Timing;
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

    /// The time from `earlier` to here; zero if `earlier` is later.
    fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for StoreTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }
}

/// What an owner knows about its store's clock, from the answers that bear the store's time.
///
/// # What an answer proves
///
/// The store read its clock after the request was sent, and before its answer is looked at. The two
/// may lie far apart: the answer waits in its socket while the thread of its reader is blocked, or the
/// process stopped. So when it is looked at, the store's clock shows what was told at least, and at
/// most as much more as has passed since the request was sent.
///
/// * The *estimate* is moved into these bounds, and no further. An answer that was looked at late
///   agrees with an estimate that is right, and does not set it back.
/// * From one answer to the next the store's clock moves on by no less than from the look at the first
///   to the sending of the second, and by no more than from the sending of the first to the look at the
///   second. What lies outside of that by more than the clocks may drift apart meanwhile (A1), and
///   the hard margin, is a *jump*: nothing else explains it.
/// * Of an answer to what was sent before the last one was looked at nobody knows which of the two the
///   store made first. It changes nothing.
///
/// # Why `not_after` is sound whatever the estimate is (S7)
///
/// A `not_after` is taken from the estimate, but compared with the store's own clock only: when the
/// claim is executed, and when it is settled. So what was given up is forgotten only when the store
/// refuses it, even where the estimate was wrong, and also after a jump forward (A3). (A jump back is
/// another matter, and A6 speaks of it.) The estimate decides how long that takes. Is it behind, a
/// claim may come too late: the answer says so, and corrects it. Is it ahead, a claim can take effect
/// for longer, and is settled as much later. It is off by no more than the time from the sending of the
/// last request to the look at its answer, and what the clocks have drifted apart since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreClock {
    last: Option<Heard>,
}

/// The last answer that counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    sent: Instant,
    told: StoreTime,
    looked_at: Instant,
    /// What the store's clock shows, as far as is known, at the look.
    estimate: StoreTime,
}

impl StoreClock {
    /// Notes the store time of an answer to what was sent at `sent`, and that is looked at `now`.
    ///
    /// Answers by how much, at least, the store's clock has jumped since the answer before: it was
    /// stepped, or another server has taken over.
    pub fn observe(
        &mut self,
        sent: Instant,
        told: StoreTime,
        now: Instant,
        timing: &Timing,
    ) -> Option<ClockJump> {
        if self.last.is_some_and(|last| sent < last.looked_at) {
            return None;
        }
        let at_most = told + now.since(sent);
        let estimate = self
            .estimate(now)
            .map_or(told, |estimate| estimate.clamp(told, at_most));
        let before = self.last.replace(Heard {
            sent,
            told,
            looked_at: now,
            estimate,
        })?;
        let (least, most) = (sent.since(before.looked_at), now.since(before.sent));
        let back = (before.told + least).since(told);
        let forward = told.since(before.told + most);
        if back > timing.clock_tolerance(least) {
            Some(ClockJump::Back(back))
        } else if forward > timing.clock_tolerance(most) {
            Some(ClockJump::Forward(forward))
        } else {
            None
        }
    }

    /// The store's time at `now`; `None` before the first answer.
    pub fn estimate(&self, now: Instant) -> Option<StoreTime> {
        self.last
            .map(|last| last.estimate + now.since(last.looked_at))
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
    use proptest::prelude::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(5000 + millis)
    }

    /// The store's clock when the owner's shows that.
    fn store(millis: u64) -> StoreTime {
        StoreTime::from_micros(100_000_000) + Duration::from_millis(millis)
    }

    /// An answer that was sent then, bears this time, and is looked at then.
    fn hear(clock: &mut StoreClock, sent: u64, told: u64, looked_at: u64) -> Option<ClockJump> {
        clock.observe(at(sent), store(told), at(looked_at), &Timing::default())
    }

    #[test]
    fn the_estimate_runs_with_the_owners_clock_and_a_jump_is_seen() {
        let mut clock = StoreClock::default();
        assert_eq!(clock.estimate(at(0)), None);
        assert_eq!(hear(&mut clock, 0, 0, 0), None);
        assert_eq!(clock.estimate(at(1000)), Some(store(1000)));
        let jump = hear(&mut clock, 1000, 4000, 1000);
        assert_eq!(jump, Some(ClockJump::Forward(Duration::from_secs(3))));
        assert_eq!(clock.estimate(at(2000)), Some(store(5000)));
        let jump = hear(&mut clock, 2000, 1000, 2000);
        assert_eq!(jump, Some(ClockJump::Back(Duration::from_secs(4))));
        assert_eq!(hear(&mut clock, 3000, 2000, 3000), None, "it is told once");
    }

    /// A3, S7: it has waited in its socket while its reader's thread was blocked.
    #[test]
    fn an_answer_that_is_looked_at_late_is_no_jump_and_sets_nothing_back() {
        let mut clock = StoreClock::default();
        assert_eq!(hear(&mut clock, 0, 0, 1), None);
        assert_eq!(hear(&mut clock, 10, 10, 3010), None);
        assert_eq!(clock.estimate(at(3010)), Some(store(3009)));
        assert_eq!(hear(&mut clock, 3100, 3100, 3101), None);
        // Nor is it one if there is nothing to compare it with but itself.
        let mut clock = StoreClock::default();
        assert_eq!(hear(&mut clock, 0, 0, 3000), None);
        assert_eq!(hear(&mut clock, 3100, 3100, 3101), None);
        assert_eq!(clock.estimate(at(3101)), Some(store(3100)));
    }

    /// A jump that happened before what was looked at last does not happen again.
    #[test]
    fn an_answer_that_was_overtaken_changes_nothing() {
        let mut clock = StoreClock::default();
        assert_eq!(hear(&mut clock, 0, 0, 0), None);
        let jump = hear(&mut clock, 200, 5200, 210);
        assert!(matches!(jump, Some(ClockJump::Forward(_))), "{jump:?}");
        let known = clock;
        assert_eq!(hear(&mut clock, 100, 105, 300), None);
        assert_eq!(clock, known);
    }

    /// The estimate is put right at once where an answer contradicts it.
    #[test]
    fn the_estimate_is_never_further_off_than_the_answers_round_trip() {
        let mut clock = StoreClock::default();
        hear(&mut clock, 0, 0, 0);
        hear(&mut clock, 1000, 5000, 1010);
        assert_eq!(clock.estimate(at(1010)), Some(store(5000)));
        hear(&mut clock, 2000, 1000, 2010);
        assert_eq!(clock.estimate(at(2010)), Some(store(1010)));
    }

    proptest! {
        /// A1, A3: whatever the round trips, and however late the answers are looked at.
        #[test]
        fn a_clock_that_only_drifts_never_jumps(
            rate in 900_u64..=1100,
            requests in prop::collection::vec(
                (
                    0_u64..100_000,
                    prop_oneof![0_u64..3, 0_u64..1500, 0_u64..60_000],
                    prop_oneof![0_u64..3, 0_u64..1500, 0_u64..60_000],
                ),
                1..40,
            ),
        ) {
            let shows = |millis: u64| store(millis * rate / 1000);
            let mut answers: Vec<_> = requests
                .into_iter()
                .map(|(sent, way_there, way_back)| {
                    (sent + way_there + way_back, sent, shows(sent + way_there))
                })
                .collect();
            answers.sort_unstable();
            let mut clock = StoreClock::default();
            for (looked_at, sent, told) in answers {
                let jump = clock.observe(at(sent), told, at(looked_at), &Timing::default());
                prop_assert_eq!(jump, None);
            }
        }
    }
}
