//! A loss is told, whoever notices it first, and however soon the locker ends.

#![allow(clippy::unwrap_used, reason = "a test")]

use distributed_locker::{
    AcquireOptions, Event, Events, Force, HeartbeatPolicy, Locker, LossReason, ManualClock, Memory,
    memory,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// How many losses are told until the locker ends.
fn counted(mut events: Events) -> JoinHandle<u32> {
    tokio::spawn(async move {
        let mut lost = 0;
        while let Some(event) = events.next().await {
            lost += u32::from(matches!(event, Event::LostLock { .. }));
        }
        lost
    })
}

/// A subscriber that takes its time: the Reporter has ended before it has written anything.
struct Slow;

impl<S: tracing::Subscriber> Layer<S> for Slow {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The last release of a draining locker is its end, and the events end with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_release_finds_is_told_before_the_end() {
    let subscriber = tracing_subscriber::registry().with(Slow);
    let _slow = tracing::subscriber::set_default(subscriber);
    for _ in 0..3 {
        let locker = Locker::builder(memory()).start().await.unwrap();
        let guard = locker.try_acquire("k").await.unwrap().unwrap();
        let lost = counted(locker.events());
        locker.drain("a test");
        let forced = locker.force_release(guard.owner_hash(), Force::Now).await;
        forced.unwrap();
        guard.release().await.unwrap_err();
        assert_eq!(lost.await.unwrap(), 1);
    }
}

/// Nobody waits for what the Reporter finds when it gives a lock back.
#[tokio::test]
async fn what_is_found_behind_a_dropped_guard_is_told() {
    let locker = Locker::builder(memory()).start().await.unwrap();
    let guard = locker.try_acquire("k").await.unwrap().unwrap();
    let lost = counted(locker.events());
    let forced = locker.force_release(guard.owner_hash(), Force::Now).await;
    forced.unwrap();
    drop(guard);
    locker.terminate(Duration::from_secs(5)).await.unwrap();
    assert_eq!(lost.await.unwrap(), 1);
}

/// The machine was suspended for an hour, and the job is the first to go on: it drops its guard before
/// anybody has looked at the deadlines.
#[tokio::test]
async fn what_has_run_out_is_not_given_back_but_lost() {
    // Who goes on first is a race.
    for _ in 0..30 {
        let clock = Arc::new(ManualClock::new());
        let store = Arc::new(Memory::new(clock.clone()));
        let locker = Locker::builder(store).clock(clock.clone());
        let locker = locker.start().await.unwrap();
        let lost = counted(locker.events());
        let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
        let acquired = locker.acquire("k", options).await.unwrap();
        let guard = acquired.guard().unwrap();
        let (job, process) = (guard.heartbeater(), locker.process_hash());
        clock.advance(Duration::from_secs(3600));
        assert_eq!(guard.valid_until(), None);
        assert_ne!(locker.process_hash(), process);
        drop(guard);
        let reason = job.lost().await.reason;
        assert_ne!(reason, LossReason::Released);
        drop(locker);
        assert_eq!(lost.await.unwrap(), 1, "{reason}");
    }
}
