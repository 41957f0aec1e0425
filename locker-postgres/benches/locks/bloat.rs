//! A million acquisitions and releases of a hundred keys, with autovacuum as it comes: what the table
//! and its index have grown to, how many connections there are, and the memory of this process.

use distributed_locker::{AcquireOptions, Locker};
use locker_postgres::Postgres;
use locker_testkit::figures::{Failure, Measuring};
use locker_testkit::servers::postgres::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KEYS: u64 = 100;
const TASKS: u64 = 64;
/// How often it is looked at.
const LOOKS: u64 = 5;

pub(crate) async fn measure(measuring: &mut Measuring, server: &Server) -> Result<(), Failure> {
    let store = Postgres::from_url(server.url())?;
    let locker = Locker::builder(Arc::new(store)).start().await?;
    let begun = Instant::now();
    let all = measuring.cycles;
    for look in 0..LOOKS {
        measuring.doing(format!("bloat: part {} of {LOOKS}", look + 1));
        cycles(&locker, all / LOOKS).await?;
        measuring.report.figure(
            format!("after {} cycles on {KEYS} keys", (look + 1) * all / LOOKS),
            format!("{} s; {}", begun.elapsed().as_secs(), sizes(server)?),
        );
    }
    locker.terminate(Duration::from_secs(5)).await?;
    Ok(())
}

async fn cycles(locker: &Locker, cycles: u64) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (locker, next) = (locker.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut turn = task;
                while next.fetch_add(1, Ordering::Relaxed) < cycles {
                    // Each task has keys that no other has, so that nobody waits.
                    let key = format!("bloat-{}", turn % KEYS);
                    let options = AcquireOptions::new();
                    if let Some(guard) = locker.acquire(key, options).await?.guard() {
                        guard.release().await?;
                    }
                    turn += TASKS;
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}

fn sizes(server: &Server) -> Result<String, Failure> {
    let told = server.sql(
        "SELECT 'table ' || pg_relation_size('locker.locks') / 1024 || ' kB, index ' \
         || pg_relation_size('locker.locks_pkey') / 1024 || ' kB, ' \
         || (SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%\"locker\"%' \
             AND pid <> pg_backend_pid()) || ' connections'",
    )?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.ok_or("no VmRSS")?.trim();
    Ok(format!("{told}, {resident} resident here"))
}
