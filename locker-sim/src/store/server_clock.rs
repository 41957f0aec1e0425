//! A server's wall clock: it drifts, and it may be stepped, which A3 bounds in one direction only.

use crate::fault::Fault;
use crate::op::{Answer, Op, Value};
use crate::plan::{Plan, timing};
use crate::rng::Rng;
use locker_core::backend::Settlement;
use std::time::Duration;

/// 2026-01-01 00:00:00 UTC, in microseconds.
const EPOCH: u64 = 1_767_225_600_000_000;

/// A server's wall clock, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerClock {
    rate_permille: u64,
    at: Duration,
    offset: i64,
    /// The lowest offset there was: A3 counts a forward step from there.
    lowest: i64,
    /// Until when claims may land that the store has called over. It does not go back behind that (A6).
    over: u64,
    /// A store that will lose its data does not step its clock back besides (A6).
    loses_data: bool,
}

/// How far a history takes a clock back, all together: less than L leaves of the time to heal.
const FARTHEST_BACK: i64 = 500_000;

impl ServerClock {
    pub(super) fn new(rate_permille: u32, plan: &Plan) -> Self {
        Self {
            rate_permille: u64::from(rate_permille),
            at: Duration::ZERO,
            offset: 0,
            lowest: 0,
            over: 0,
            loses_data: plan.breach.is_some_and(Fault::forgets),
        }
    }

    pub(super) fn advance(&mut self, at: Duration) {
        self.at = at;
    }

    pub(super) fn now(&self) -> u64 {
        let micros = u64::try_from(self.at.as_micros()).unwrap_or(u64::MAX);
        let shown = EPOCH + micros.saturating_mul(self.rate_permille) / 1000;
        shown.saturating_add_signed(self.offset)
    }

    /// The first true moment at which it shows this, if nobody steps it.
    pub(super) fn when(&self, shown: u64) -> Duration {
        let passed = shown
            .saturating_add_signed(-self.offset)
            .saturating_sub(EPOCH);
        Duration::from_micros(passed.saturating_mul(1000).div_ceil(self.rate_permille))
    }

    /// Has been read for this answer.
    pub(super) fn told(&mut self, op: &Op, answer: &Answer) {
        if let Op::Settle(_, until) = op
            && let Ok(reply) = answer
            && matches!(reply.value, Value::Settled(Settlement::Final(_)))
        {
            self.over = self.over.max(until.as_micros());
        }
    }

    /// Is stepped back. Answers whether it may go back any farther.
    pub(super) fn step_back(&mut self, rng: &mut Rng) -> bool {
        if self.loses_data {
            return false;
        }
        let shown_since = i64::try_from(self.now().saturating_sub(self.over)).unwrap_or(i64::MAX);
        let left = (FARTHEST_BACK + self.lowest).min(shown_since - 1);
        if left <= 0 {
            return false;
        }
        let by = 1 + below(rng, left);
        self.offset -= by;
        self.lowest = self.lowest.min(self.offset);
        true
    }

    /// Is stepped forward as far as A3 allows: by less than the hard margin.
    pub(super) fn step_forward(&mut self, rng: &mut Rng) -> bool {
        let margin = i64::try_from(timing().hard_margin.as_micros()).unwrap_or(0);
        let most = self.lowest + margin - 1 - self.offset;
        if most <= 0 {
            return false;
        }
        self.offset += 1 + below(rng, most);
        true
    }

    /// Is stepped forward, beyond all that A3 allows.
    pub(super) fn leap(&mut self, rng: &mut Rng) {
        self.offset += 30_000 + below(rng, 3_000_000);
    }

    /// Another server's clock, after a fail-over: as far from this one as A3 allows.
    pub(super) fn change(&mut self, rng: &mut Rng) {
        if rng.chance(500) {
            self.step_back(rng);
        } else {
            self.step_forward(rng);
        }
    }
}

fn below(rng: &mut Rng, bound: i64) -> i64 {
    let bound = usize::try_from(bound).unwrap_or(1);
    i64::try_from(rng.below(bound)).unwrap_or(0)
}
