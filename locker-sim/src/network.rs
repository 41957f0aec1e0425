//! What becomes of a request on its way to the store, and of its answer.
//!
//! A request may be refused, lost, slow, late (long after its sender has given up, or died) or
//! doubled; so may its reply. Requests overtake each other. One thing does not happen, because the
//! contract forbids it: a claim that was *answered* is not delivered a second time afterwards. A
//! client library that resends behind the store's back would break `Backend`, not the locker. So a
//! claim is doubled only when no answer of it comes back.

use super::fault::{Fault, Faults};
use super::op::Op;
use super::plan::{OutageKind, Plan, Weather};
use super::rng::Rng;
use std::time::Duration;

/// What becomes of one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fate {
    /// It is refused before it leaves: the sender knows that nothing happened.
    pub refused: bool,
    /// When it arrives.
    pub arrives: Option<Duration>,
    /// When a copy of it arrives.
    pub again: Option<Duration>,
}

/// The delay of a message in good weather.
pub fn short(rng: &mut Rng) -> Duration {
    rng.between(Duration::from_micros(100), Duration::from_millis(4))
}

fn slow(rng: &mut Rng) -> Duration {
    // The request timeout is 300 ms: some of these are in time.
    rng.between(Duration::from_millis(20), Duration::from_millis(450))
}

fn late(rng: &mut Rng) -> Duration {
    let longest = [500, 1500, 6000][rng.below(3)];
    rng.between(Duration::from_millis(200), Duration::from_millis(longest))
}

/// Draws what becomes of a request that leaves now.
pub fn request(
    plan: &Plan,
    weather: Weather,
    rng: &mut Rng,
    faults: &mut impl FnMut(Fault),
    at: Duration,
    process: usize,
) -> Fate {
    let mut fate = Fate {
        arrives: Some(at + short(rng)),
        ..Fate::default()
    };
    if let Some(outage) = plan.outage(at, process) {
        match outage.kind {
            OutageKind::CutOff => {
                faults(Fault::CutOff);
                fate.arrives = None;
                return fate;
            }
            OutageKind::HeldBack => {
                faults(Fault::RequestsHeldBack);
                fate.arrives = Some(outage.until + late(rng));
                return fate;
            }
            OutageKind::StoreStalled => {
                faults(Fault::StoreStalled);
                // In the order in which they came, but for what they overtake on the way.
                fate.arrives = Some(outage.until + short(rng));
                return fate;
            }
            OutageKind::RepliesSwallowed | OutageKind::Congested => {}
        }
    }
    if rng.chance(weather.refused) {
        faults(Fault::RequestRefused);
        return Fate {
            refused: true,
            ..Fate::default()
        };
    }
    if rng.chance(weather.request_lost) {
        faults(Fault::RequestLost);
        fate.arrives = None;
    } else if rng.chance(weather.late) {
        faults(Fault::LateLanding);
        fate.arrives = Some(at + late(rng));
    } else if rng.chance(weather.slow) {
        faults(Fault::SlowRequest);
        fate.arrives = Some(at + slow(rng));
    }
    if rng.chance(weather.doubled) {
        faults(Fault::RequestDoubled);
        fate.again = Some(at + late(rng));
    }
    fate
}

/// Draws when the answer to a request arrives that was answered now; `None` if never.
pub fn reply(
    plan: &Plan,
    weather: Weather,
    rng: &mut Rng,
    faults: &mut Faults,
    at: Duration,
    process: usize,
) -> Option<Duration> {
    match plan.outage(at, process).map(|outage| outage.kind) {
        Some(OutageKind::CutOff | OutageKind::HeldBack | OutageKind::RepliesSwallowed) => {
            faults.count(Fault::RepliesSwallowed);
            return None;
        }
        Some(OutageKind::Congested) => {
            faults.count(Fault::Congested);
            let almost = plan.timing.request_timeout * 9 / 10;
            return Some(at + rng.between(almost / 4, almost));
        }
        Some(OutageKind::StoreStalled) | None => {}
    }
    if rng.chance(weather.reply_lost) {
        faults.count(Fault::ReplyLost);
        return None;
    }
    if rng.chance(weather.slow) {
        faults.count(Fault::SlowReply);
        return Some(at + slow(rng));
    }
    Some(at + short(rng))
}

/// Whether a copy of this request may arrive although the first one was answered.
pub fn may_repeat_after_its_answer(op: &Op) -> bool {
    !op.is_claim() && !matches!(op, Op::Watch(..) | Op::Unwatch(_))
}
