//! Several workers want to run each tick of a schedule; every tick runs once.
//!
//! A lock excludes, it does not remember: whoever comes after the first has finished could run the
//! same tick again. So the job asks its own records, under the lock, whether the tick is done. And it
//! says nothing about another tick: who finds the lock held waits for it, and then looks. Here three
//! workers share one file; in life they are three machines and a server.

use distributed_locker::{AcquireOptions, Heartbeater, Locker, Run, Trace, Wait, connect};
use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TICKS: u32 = 5;
const WORKERS: u32 = 3;

/// What is done already. In life, a table.
type Done = Arc<Mutex<BTreeSet<u32>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let folder = tempfile::tempdir()?;
    let address = format!("sqlite:{}", folder.path().join("locks.db").display());
    let done = Done::default();

    let workers: Vec<_> = (1..=WORKERS)
        .map(|number| tokio::spawn(worker(number, address.clone(), Arc::clone(&done))))
        .collect();
    let mut runs = 0;
    for worker in workers {
        runs += worker.await??;
    }

    println!("{runs} runs of {TICKS} ticks by {WORKERS} workers");
    assert_eq!(runs, TICKS, "each tick ran once");
    Ok(())
}

/// Looks at every tick, and answers how many of them this worker ran.
async fn worker(
    number: u32,
    address: String,
    done: Done,
) -> Result<u32, Box<dyn Error + Send + Sync>> {
    let locker = Locker::builder(connect(&address)?).start().await?;
    let mut runs = 0;
    for tick in 1..=TICKS {
        let options = AcquireOptions::new()
            .trace(Trace::new(format!("tick {tick}"))?)
            .wait(Wait::For(Duration::from_secs(30)));
        let job = async |hb: Heartbeater| run_tick(tick, &hb, &done).await;
        match locker.acquire_and_run("schedule", options, job).await? {
            Run::Completed { value: true, .. } => {
                println!("worker {number} ran tick {tick}");
                runs += 1;
            }
            Run::Completed { value: false, .. } => {}
            // In life: the next worker, or the next look at the schedule, sees to this tick.
            Run::SomeoneElseHoldsLock(lock) => {
                return Err(format!("{} has not come to an end", lock.owner).into());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A worker that ends in good order frees its locks at once.
    locker.terminate(Duration::from_secs(5)).await?;
    Ok(runs)
}

/// Runs a tick, unless it was run before.
async fn run_tick(tick: u32, hb: &Heartbeater, done: &Done) -> bool {
    if done.lock().unwrap().contains(&tick) {
        return false;
    }
    // `sleep` beats, and ends early when the lock is lost. Here it stands for the work.
    if hb.sleep(Duration::from_millis(10)).await.is_err() {
        return false;
    }
    done.lock().unwrap().insert(tick)
}
