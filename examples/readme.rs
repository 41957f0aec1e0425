//! The example of the README, word for word.

use distributed_locker::{AcquireOptions, Heartbeater, Interrupted, Locker, Run, connect};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::temp_dir().join("readme-example.db");
    let store = connect(&format!("sqlite:{}", file.display()))?;
    let locker = Locker::builder(store).start().await?;

    let job = async |hb: Heartbeater| {
        for page in 1..=3 {
            hb.heartbeat()?; // An error if the lock is lost, or the process is to end: stop here.
            println!("page {page}");
        }
        Ok::<_, Interrupted>("three pages")
    };
    let options = AcquireOptions::new();
    match locker.acquire_and_run("nightly", options, job).await? {
        Run::Completed { value, .. } => println!("done: {}", value?),
        Run::SomeoneElseHoldsLock(holder) => println!("already running: {}", holder.owner),
    }
    locker.terminate(Duration::from_secs(5)).await?;
    Ok(())
}
