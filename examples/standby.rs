//! A hot standby: two workers want to be the leader; when the one ends, the other takes over.

use distributed_locker::{AcquireOptions, LockGuard, Locker, connect};
use std::error::Error;
use std::time::{Duration, Instant};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let address = format!("sqlite:{}", folder.path().join("locks.db").display());

    let first = Locker::builder(connect(&address)?).start().await?;
    let second = Locker::builder(connect(&address)?).start().await?;

    let mut leader = first.standby("leader", AcquireOptions::new())?;
    let mut follower = second.standby("leader", AcquireOptions::new())?;

    let guard = leader.next().await?;
    println!("the first leads, under token {}", guard.token());
    let first_token = guard.token();

    let follows = tokio::spawn(async move { follower.next().await });
    lead(&guard, Duration::from_millis(200)).await;

    // The first ends in good order. After a crash it would be the same, only a little later.
    let ended = Instant::now();
    drop(leader);
    guard.release().await?;
    first.terminate(Duration::from_secs(5)).await?;

    let guard = follows.await??;
    println!(
        "the second leads after {:?}, under token {}",
        ended.elapsed(),
        guard.token()
    );
    assert!(guard.token() > first_token, "tokens only grow");
    guard.release().await?;
    second.terminate(Duration::from_secs(5)).await?;
    Ok(())
}

/// Leads for a while, or until the lock is lost.
async fn lead(guard: &LockGuard, term: Duration) {
    tokio::select! {
        () = tokio::time::sleep(term) => {}
        loss = guard.lost() => println!("no longer the leader: {loss}"),
    }
}
