//! Acquire and release of a free lock, over and over, by one task and by many, through the locker and
//! by the bare client.

use crate::raw::Raw;
use crate::stats::{Report, Spread, Target};
use crate::{Failure, ROUNDS};
use distributed_locker::{AcquireOptions, Acquired, Locker};
use indicatif::ProgressBar;
use locker_redis::Redis;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MANY: usize = 64;

pub(crate) async fn measure(
    url: &str,
    deployment: &str,
    targets: [f64; 2],
    slice: Duration,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), Failure> {
    let locker = Locker::builder(Arc::new(Redis::from_url(url)?))
        .start()
        .await?;
    let raw = Raw::open(url).await?;
    for (tasks, target) in [1, MANY].into_iter().zip(targets) {
        let through_locker = || run(tasks, slice, |task| lock_in_turns(locker.clone(), task));
        let by_client = || run(tasks, slice, |task| raw_in_turns(raw.clone(), task));
        // Scripts, sockets and allocators get warm.
        through_locker().await?;
        by_client().await?;
        let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            bar.set_message(format!(
                "{deployment}, {tasks} tasks: round {} of {ROUNDS}",
                round + 1
            ));
            // Whoever is first has the colder machine: they take turns.
            let (our, their) = if round % 2 == 0 {
                let our = through_locker().await?;
                (our, by_client().await?)
            } else {
                let their = by_client().await?;
                (through_locker().await?, their)
            };
            ratios.push(our / their);
            ours.push(our);
            theirs.push(their);
        }
        let what = format!("acquire + release, {deployment}, {tasks} task(s)");
        let target = match target {
            0.0 => Target::None,
            least => Target::AtLeast(least),
        };
        report.ratio(&what, Spread::of(ratios), target);
        let (ours, theirs) = (Spread::of(ours), Spread::of(theirs));
        report.figure(
            what,
            format!(
                "{:.0} pairs/s through the locker, {:.0} by the bare client",
                ours.median, theirs.median
            ),
        );
    }
    locker.terminate(Duration::from_secs(5)).await?;
    Ok(())
}

/// Lets so many tasks do their pairs for so long, and answers pairs per second.
async fn run<F, T>(tasks: usize, slice: Duration, work: F) -> Result<f64, Failure>
where
    F: Fn(usize) -> T,
    T: Future<Output = Result<u64, Failure>> + Send + 'static,
{
    let begun = Instant::now();
    let limit = begun + slice;
    let running: Vec<_> = (0..tasks)
        .map(|task| tokio::spawn(LIMIT.scope(limit, work(task))))
        .collect();
    let mut pairs = 0;
    for task in running {
        pairs += task.await??;
    }
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    Ok(pairs as f64 / begun.elapsed().as_secs_f64())
}

tokio::task_local! {
    /// When a task stops.
    static LIMIT: Instant;
}

async fn lock_in_turns(locker: Locker, task: usize) -> Result<u64, Failure> {
    let key = locker_core::Key::new(format!("bench-{task}"))?;
    let limit = LIMIT.get();
    let mut pairs = 0;
    while Instant::now() < limit {
        let options = AcquireOptions::new();
        let Acquired::Guard(guard) = locker.acquire(&key, options).await? else {
            return Err("a free lock is held".into());
        };
        guard.release().await?;
        pairs += 1;
    }
    Ok(pairs)
}

async fn raw_in_turns(mut raw: Raw, task: usize) -> Result<u64, Failure> {
    let key = format!("raw-{task}");
    let value = format!("{key}@host/1.{task:032x}.1");
    let limit = LIMIT.get();
    let mut pairs = 0;
    while Instant::now() < limit {
        raw.pair(&key, &value).await?;
        pairs += 1;
    }
    Ok(pairs)
}
