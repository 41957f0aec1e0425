//! From calling `release` in one locker to the grant in another that waits. Beside it: what the bare
//! client needs to tell another connection something.

use super::{Failure, Measuring, ROUNDS, Spread, Target, micros};
use distributed_locker::{AcquireOptions, Acquired, LockGuard, Locker, Wait};
use std::time::{Duration, Instant};

const PER_ROUND: usize = 40;

/// Until a waiter stands in the line at the store, and between two messages of the bare client: the
/// machine is as idle before each of them.
const ENROLMENT: Duration = Duration::from_millis(20);

/// Measures hand-offs between two lockers of a store, beside a message of the bare client, which says
/// how long it took.
///
/// # Errors
///
/// The store's or the bare client's.
pub async fn hand_off(
    measuring: &mut Measuring,
    url: &str,
    message: &str,
    mut bare: impl AsyncFnMut() -> Result<Duration, Failure>,
    target: Target,
) -> Result<(), Failure> {
    let mut lockers = Vec::new();
    for _ in 0..2 {
        let store = measuring.open(url)?;
        lockers.push(Locker::builder(store).start().await?);
    }
    let (mut ratios, mut hand_offs, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=ROUNDS {
        measuring.doing(format!("hand-off: round {round} of {ROUNDS}"));
        let ours = Spread::of(in_turns(&lockers).await?).median;
        let mut theirs = Vec::new();
        for _ in 0..PER_ROUND {
            tokio::time::sleep(ENROLMENT).await;
            theirs.push(micros(bare().await?));
        }
        let theirs = Spread::of(theirs).median;
        if round > 0 {
            ratios.push(ours / theirs);
            hand_offs.push(ours);
            messages.push(theirs);
        }
    }
    let what = format!("hand-off p50 to {message} p50");
    measuring.report.ratio(what, Spread::of(ratios), target);
    let (ours, theirs) = (Spread::of(hand_offs), Spread::of(messages));
    measuring.report.figure(
        "hand-off p50",
        format!("{:.0} us; {message} {:.0} us", ours.median, theirs.median),
    );
    for locker in lockers {
        locker.terminate(Duration::from_secs(5)).await?;
    }
    Ok(())
}

/// The lock goes to and fro; how long it took each time.
async fn in_turns(lockers: &[Locker]) -> Result<Vec<f64>, Failure> {
    let mut took = Vec::new();
    let mut guard = acquire(&lockers[0]).await?;
    for turn in 1..=PER_ROUND {
        let other = lockers[turn % 2].clone();
        let waiter = tokio::spawn(async move {
            let guard = acquire(&other).await?;
            Ok::<_, Failure>((Instant::now(), guard))
        });
        tokio::time::sleep(ENROLMENT).await;
        let begun = Instant::now();
        guard.release().await?;
        let (granted, next) = waiter.await??;
        took.push(micros(granted.saturating_duration_since(begun)));
        guard = next;
    }
    guard.release().await?;
    Ok(took)
}

async fn acquire(locker: &Locker) -> Result<LockGuard, Failure> {
    let options = AcquireOptions::new().wait(Wait::Forever);
    match locker.acquire("bench-hand-off", options).await? {
        Acquired::Guard(guard) => Ok(guard),
        Acquired::SomeoneElseHoldsLock(_) => Err("a waiter was sent away".into()),
    }
}
