//! From calling `release` in one locker to the grant in another that waits. Beside it: from calling
//! `put` on one connection to the event of a watch on another.

use crate::raw;
use crate::stats::{Report, Spread, Target, micros};
use crate::{Failure, ROUNDS};
use distributed_locker::{AcquireOptions, Acquired, LockGuard, Locker, Wait};
use indicatif::ProgressBar;
use locker_etcd::Etcd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PER_ROUND: usize = 40;

/// Until a waiter stands in the line at the store.
const ENROLMENT: Duration = Duration::from_millis(20);

pub(crate) async fn measure(
    url: &str,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), Failure> {
    let start = || async {
        let locker = Locker::builder(Arc::new(Etcd::from_url(url)?))
            .start()
            .await?;
        Ok::<_, Failure>(locker)
    };
    let lockers = [start().await?, start().await?];
    let mut writer = raw::connect(url).await?;
    let mut watcher = raw::connect(url).await?;
    let mut events = watcher.watch("bench-watched", None).await?;
    // That the watch was created.
    events.message().await?;
    let (mut ratios, mut hand_offs, mut hints) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        bar.set_message(format!("hand-off: round {round} of {ROUNDS}"));
        let mut ours = Vec::new();
        let mut holder = 0;
        let mut guard = acquire(&lockers[holder]).await?;
        for _ in 0..PER_ROUND {
            let other = lockers[1 - holder].clone();
            let waiter = tokio::spawn(async move {
                let guard = acquire(&other).await?;
                Ok::<_, Failure>((Instant::now(), guard))
            });
            tokio::time::sleep(ENROLMENT).await;
            let begun = Instant::now();
            guard.release().await?;
            let (granted, next) = waiter.await??;
            ours.push(micros(granted.saturating_duration_since(begun)));
            guard = next;
            holder = 1 - holder;
        }
        guard.release().await?;
        let mut events_took = Vec::new();
        for _ in 0..PER_ROUND {
            // The machine is as idle before each event as before each release.
            tokio::time::sleep(ENROLMENT).await;
            let begun = Instant::now();
            let put = writer.put("bench-watched", "x", None);
            let (put, event) = tokio::join!(put, async {
                events.message().await.map(|event| (event, Instant::now()))
            });
            put?;
            let (event, arrived) = event?;
            event.ok_or("the watch has ended")?;
            events_took.push(micros(arrived.saturating_duration_since(begun)));
        }
        if round > 0 {
            let (ours, raw) = (Spread::of(ours).median, Spread::of(events_took).median);
            ratios.push(ours / raw);
            hand_offs.push(ours);
            hints.push(raw);
        }
    }
    report.ratio(
        "hand-off p50 to put -> watch p50",
        Spread::of(ratios),
        Target::AtMost(3.0),
    );
    let (ours, raw) = (Spread::of(hand_offs), Spread::of(hints));
    report.figure(
        "hand-off p50",
        format!(
            "{:.0} us; one put -> watch {:.0} us",
            ours.median, raw.median
        ),
    );
    for locker in lockers {
        locker.terminate(Duration::from_secs(5)).await?;
    }
    Ok(())
}

async fn acquire(locker: &Locker) -> Result<LockGuard, Failure> {
    let options = AcquireOptions::new().wait(Wait::Forever);
    match locker.acquire("bench-hand-off", options).await? {
        Acquired::Guard(guard) => Ok(guard),
        Acquired::SomeoneElseHoldsLock(_) => Err("a waiter was sent away".into()),
    }
}
