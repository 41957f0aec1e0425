//! Ten thousand locks that are held and do nothing: what they cost the server.

use crate::Failure;
use crate::stats::Report;
use distributed_locker::{AcquireOptions, Locker};
use indicatif::ProgressBar;
use locker_redis::Redis;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOCKS: usize = 10_000;
const TASKS: usize = 64;

pub(crate) async fn measure(
    url: &str,
    held_for: Duration,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut admin = redis::Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    let locker = Locker::builder(Arc::new(Redis::from_url(url)?))
        .start()
        .await?;
    let before = Info::read(&mut admin).await?;
    bar.set_message(format!("{LOCKS} locks are acquired"));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let locker = locker.clone();
            tokio::spawn(async move {
                let mut guards = Vec::new();
                for lock in (task..LOCKS).step_by(TASKS) {
                    let options = AcquireOptions::new();
                    let acquired = locker
                        .acquire(format!("bench-idle-{lock}"), options)
                        .await?;
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
    let took = begun.elapsed();
    let held = Info::read(&mut admin).await?;
    for second in 0..held_for.as_secs() {
        bar.set_message(format!("{LOCKS} locks are held: {second} s"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_nanos(held_for.subsec_nanos().into())).await;
    let after = Info::read(&mut admin).await?;
    let valid = guards.iter().filter(|guard| guard.is_valid()).count();
    report.figure(
        format!("{LOCKS} locks by {TASKS} tasks"),
        format!("acquired in {:.2} s", took.as_secs_f64()),
    );
    report.figure(
        "server memory per held lock",
        format!(
            "{} bytes",
            held.memory.saturating_sub(before.memory) / LOCKS as u64
        ),
    );
    report.figure(
        format!("{LOCKS} idle locks for {} s", held_for.as_secs()),
        format!(
            "{valid} valid at the end; {} scripts, {} µs of the server's time",
            after.scripts - held.scripts,
            after.script_micros - held.script_micros
        ),
    );
    bar.set_message("the locks are released");
    drop(guards);
    locker.terminate(Duration::from_secs(30)).await?;
    let fences = Info::read(&mut admin).await?;
    report.figure(
        "server memory per idle fence",
        format!(
            "{} bytes",
            fences.memory.saturating_sub(before.memory) / LOCKS as u64
        ),
    );
    Ok(())
}

/// What the server says of itself.
struct Info {
    memory: u64,
    scripts: u64,
    script_micros: u64,
}

impl Info {
    async fn read(admin: &mut redis::aio::MultiplexedConnection) -> Result<Self, Failure> {
        let text: String = redis::cmd("INFO").arg("all").query_async(admin).await?;
        let line = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let scripts = line("cmdstat_evalsha").unwrap_or_default();
        let of = |name: &str| -> u64 {
            let mut parts = scripts.split(',');
            let value = parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Ok(Self {
            memory: line("used_memory").ok_or("INFO without memory")?.parse()?,
            scripts: of("calls"),
            script_micros: of("usec"),
        })
    }
}
