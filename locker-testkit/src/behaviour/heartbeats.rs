//! Beating, and the lock's own time.

use super::World;
use crate::fixture::Fixture;
use distributed_locker::{AcquireOptions, HeartbeatPolicy, Interrupted, LossReason, Run, RunError};
use std::time::Duration;

/// Hazard CU-8.
pub async fn a_run_keeps_its_lock_while_it_beats<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let ttl = world.timing().lock_ttl;
    let running = a.acquire_and_run("k", AcquireOptions::new(), async |job| {
        for _ in 0..6 {
            job.sleep(ttl / 4).await.expect("it is kept");
            assert!(!world.is_free(&b, "k").await);
        }
        "done"
    });
    let run = world.during(running).await.unwrap();
    assert!(matches!(run, Run::Completed { value: "done", .. }));
}

/// Attack 19: the loss comes at last beat + L, and the record goes soon after.
pub async fn a_job_that_does_not_beat_loses_its_lock<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let ttl = world.timing().lock_ttl;
    let began = world.now();
    let run = a.acquire_and_run("k", AcquireOptions::new(), async |_job| {
        std::future::pending::<()>().await;
    });
    let error = world.during(run).await.unwrap_err();
    let took = world.now().since(began);
    assert!(
        matches!(&error, RunError::Lost { loss, late: None }
        if loss.reason == LossReason::Expired),
        "{error:?}"
    );
    assert!(
        took >= ttl * 9 / 10 && took <= ttl + world.timing().recheck_every,
        "after {took:?}"
    );
    let limit = world.timing().recheck_every;
    world
        .until(limit, "the lock is free", async || {
            world.is_free(&b, "k").await
        })
        .await;
}

/// Attack 19: a beat just before the end of the TTL is in time.
pub async fn a_beat_counts_for_one_whole_lock_ttl<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let ttl = world.timing().lock_ttl;
    let guard = world.hold(&locker, "k").await;
    let job = guard.heartbeater();
    for _ in 0..2 {
        world.pass(ttl * 8 / 10).await;
        job.heartbeat().expect("a beat in time");
    }
    assert!(guard.is_valid());
}

/// `HeartbeatPolicy::Automatic`.
pub async fn an_automatic_heartbeat_needs_no_beats<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let guard = world.hold_with(&locker, "k", options).await;
    world.pass(world.timing().lock_ttl * 3 / 2).await;
    assert!(guard.is_valid(), "{:?}", guard.loss());
    guard.release().await.unwrap();
}

/// The guard beats as its heartbeater does.
pub async fn a_guard_that_beats_keeps_its_lock<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let ttl = world.timing().lock_ttl;
    let guard = world.hold(&locker, "k").await;
    for _ in 0..2 {
        world.pass(ttl * 8 / 10).await;
        guard.heartbeat().expect("a beat in time");
    }
    locker.drain("enough");
    let told = guard.heartbeat().unwrap_err();
    assert_eq!(told, Interrupted::Draining("enough".to_owned()));
    assert!(guard.is_valid(), "{:?}", guard.loss());
}

/// A leader has no job that beats: it leads as long as its process lives.
pub async fn a_standby_that_never_beats_leads_for_longer_than_the_lock_ttl<F: Fixture>(
    world: World<F>,
) {
    let (a, b) = (world.locker().await, world.locker().await);
    let mut standby = a.standby("k", AcquireOptions::new()).unwrap();
    let guard = world.during(standby.next()).await.unwrap();
    world.pass(world.timing().lock_ttl * 3 / 2).await;
    assert!(guard.is_valid(), "{:?}", guard.loss());
    assert!(!world.is_free(&b, "k").await);
}

/// Who asks a standby for beats gets what was asked for.
pub async fn a_standby_that_must_beat_loses_its_lock_without<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Required);
    let mut standby = locker.standby("k", options).unwrap();
    let guard = world.during(standby.next()).await.unwrap();
    world.pass(world.timing().lock_ttl).await;
    let loss = guard.loss().expect("it never beat");
    assert_eq!(loss.reason, LossReason::Expired);
}

/// A heartbeat costs no I/O.
pub async fn a_burst_of_heartbeats_costs_the_store_nothing<F: Fixture>(world: World<F>) {
    let (locker, counted) = world.counted_locker().await;
    let guard = world.hold(&locker, "k").await;
    let job = guard.heartbeater();
    let (before, began) = (counted.counts(), world.now());
    for _ in 0..100_000 {
        job.heartbeat().unwrap();
    }
    let elapsed = world.now().since(began);
    let sent = u128::from(counted.counts().since(&before).total());
    // What the Reporter does in that time, it does anyway.
    let periods = elapsed.as_nanos() / world.timing().report_every.as_nanos();
    assert!(
        sent <= 3 * (periods + 1),
        "{sent} requests in {periods} report periods"
    );
}

/// The Reporter extends: the record lives longer than its first TTL.
pub async fn an_extended_lock_outlives_its_ttl<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let guard = world.hold(&a, "k").await;
    let job = guard.heartbeater();
    let ttl = world.timing().lock_ttl;
    for _ in 0..10 {
        world.pass(ttl / 8).await;
        job.heartbeat().unwrap();
    }
    assert!(guard.is_valid());
    assert!(!world.is_free(&b, "k").await);
}

/// Hazards CU-9 and CU-10: no heartbeat after a loss succeeds.
pub async fn a_heartbeat_in_vain_stays_in_vain<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let guard = world.hold(&locker, "k").await;
    let job = guard.heartbeater();
    world
        .pass(world.timing().lock_ttl + Duration::from_millis(1))
        .await;
    for _ in 0..3 {
        let error = job.heartbeat().unwrap_err();
        assert!(matches!(error, Interrupted::Lost(_)), "{error:?}");
        assert!(!guard.is_valid());
        world.pass(world.timing().report_every).await;
    }
}
