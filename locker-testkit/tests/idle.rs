//! L7: what ten thousand idle locks cost the store in a minute, at the default times.

#![allow(clippy::print_stdout, reason = "the counts are what the test is for")]

use distributed_locker::{
    AcquireOptions, Acquired, Connect, HeartbeatPolicy, LockGuard, Locker, ManualClock, Memory,
    connect, pass,
};
use locker_core::backend::Side;
use locker_testkit::wrap::{Counted, Counts, Method};
use std::sync::Arc;
use std::time::Duration;

const LOCKS: u64 = 10_000;
const MINUTE: Duration = Duration::from_secs(60);

async fn hold_all(locker: &Locker) -> Vec<LockGuard> {
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let mut guards = Vec::new();
    for n in 0..LOCKS {
        let acquired = locker.acquire(format!("idle/{n}"), options.clone()).await;
        let Ok(Acquired::Guard(guard)) = acquired else {
            panic!("{acquired:?}")
        };
        guards.push(guard);
    }
    guards
}

fn counted(inner: Arc<dyn Connect>) -> (Counted, Arc<dyn Connect>) {
    let counted = Counted::new();
    let store = counted.around(inner);
    (counted, store)
}

/// One extension of each lock, a check at every other point of the grid, a report every 2 s
/// (jittered down by up to a fifth), and nothing else. So many requests may have been sent once more, over
/// another connection, because their answers came too late.
fn assert_idle(sent: &Counts, locker: &Locker, repeated: u64) {
    let timing = locker.timing();
    let per =
        |every: Duration| u64::try_from(MINUTE.as_millis() / every.as_millis()).expect("small");
    let batches = LOCKS.div_ceil(64);
    let extends = sent.from(Side::Upkeep, Method::Extend);
    let checks = sent.from(Side::Upkeep, Method::Check);
    let reports = sent.from(Side::Reports, Method::RenewProcess);
    println!("{LOCKS} idle locks, 60 s: {extends} extends, {checks} checks, {reports} reports");
    let all = batches * per(timing.extend_every);
    assert!(
        (all..=all + repeated).contains(&extends),
        "{extends} extends"
    );
    let rounds = per(timing.recheck_every);
    assert!(
        (batches * (rounds - 2)..=batches * rounds + repeated).contains(&checks),
        "{checks} checks"
    );
    let expected = per(timing.report_every);
    assert!(
        (expected..=expected * 5 / 4 + 1).contains(&reports),
        "{reports} reports"
    );
    // The Reporter opens its second connection when it first needs it.
    let opened = [Side::Upkeep, Side::Reports].map(|side| sent.from(side, Method::Connect));
    let opened: u64 = opened.iter().sum();
    assert!(opened <= 1 + repeated, "{opened} connections");
    let all = extends + checks + reports + opened;
    assert_eq!(sent.total(), all, "and nothing else: {sent:?}");
}

#[tokio::test]
async fn ten_thousand_idle_locks_on_the_memory_store() {
    let clock = Arc::new(ManualClock::new());
    let (counted, store) = counted(Arc::new(Memory::new(clock.clone())));
    let locker = Locker::builder(store)
        .clock(clock.clone())
        .start()
        .await
        .expect("it starts");
    let guards = hold_all(&locker).await;
    let before = counted.counts();
    pass(&clock, MINUTE).await;
    assert_idle(&counted.counts().since(&before), &locker, 0);
    assert!(guards.iter().all(LockGuard::is_valid));
}

#[tokio::test]
async fn ten_thousand_idle_locks_on_the_embedded_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}", folder.path().join("locks.db").display());
    let (counted, store) = counted(connect(&url).expect("a URL"));
    let locker = Locker::builder(store).start().await.expect("it starts");
    let guards = hold_all(&locker).await;
    let before = counted.counts();
    tokio::time::sleep(MINUTE).await;
    assert_idle(&counted.counts().since(&before), &locker, 16);
    assert!(guards.iter().all(LockGuard::is_valid));
}
