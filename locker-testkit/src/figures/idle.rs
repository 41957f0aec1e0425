//! Ten thousand locks that are held and do nothing: what they cost the store.

use super::{Failure, Measuring};
use distributed_locker::{AcquireOptions, LockGuard, Locker};
use std::time::{Duration, Instant};

/// How many locks [`idle`] holds.
pub const LOCKS: u32 = 10_000;

const TASKS: usize = 64;

/// What the store said of itself at each moment.
#[derive(Debug, Clone, Copy)]
pub struct Idle<T> {
    /// Before the first lock.
    pub before: T,
    /// When all were held.
    pub held: T,
    /// After they had been held for so long.
    pub after: T,
    /// When they had been released.
    pub freed: T,
}

/// Acquires the locks, holds them, and releases them, and asks the store at each moment what it says
/// of itself.
///
/// # Errors
///
/// The store's, or a free lock that is held.
pub async fn idle<T>(
    measuring: &mut Measuring,
    url: &str,
    mut look: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<Idle<T>, Failure> {
    let held_for = measuring.idle;
    let locker = Locker::builder(measuring.open(url)?).start().await?;
    let before = look().await?;
    measuring.doing(format!("{LOCKS} locks are acquired"));
    let begun = Instant::now();
    let guards = acquire_all(&locker).await?;
    let took = begun.elapsed();
    let held = look().await?;
    for second in 0..held_for.as_secs() {
        measuring.doing(format!("{LOCKS} locks are held: {second} s"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_nanos(held_for.subsec_nanos().into())).await;
    let after = look().await?;
    let valid = guards.iter().filter(|guard| guard.is_valid()).count();
    measuring.report.figure(
        format!("{LOCKS} locks by {TASKS} tasks"),
        format!("acquired in {:.2} s", took.as_secs_f64()),
    );
    measuring.report.figure(
        format!("{LOCKS} idle locks after {} s", held_for.as_secs()),
        format!("{valid} valid"),
    );
    measuring.doing("the locks are released");
    drop(guards);
    locker.terminate(Duration::from_secs(30)).await?;
    let freed = look().await?;
    Ok(Idle {
        before,
        held,
        after,
        freed,
    })
}

async fn acquire_all(locker: &Locker) -> Result<Vec<LockGuard>, Failure> {
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let locker = locker.clone();
            tokio::spawn(async move {
                let mut guards = Vec::new();
                for lock in (0..LOCKS).skip(task).step_by(TASKS) {
                    let options = AcquireOptions::new();
                    let key = format!("bench-idle-{lock}");
                    let acquired = locker.acquire(key, options).await?;
                    guards.push(acquired.guard().ok_or("a free lock is held")?);
                }
                Ok::<_, Failure>(guards)
            })
        })
        .collect();
    let mut guards = Vec::new();
    for task in tasks {
        guards.extend(task.await??);
    }
    Ok(guards)
}
