//! The end of a locker (L3, attack 10).

use super::World;
use crate::fixture::Fixture;
use crate::wrap::{Fault, Method, Scope};
use distributed_locker::{
    AcquireError, AcquireOptions, Event, Interrupted, ReporterEvent, TerminateError, Wait,
};
use locker_core::backend::Liveness;

/// Hazard CU-16.
pub async fn draining_releases_each_lock_only_when_its_work_has_ended<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let first = world.hold(&a, "first").await;
    let second = world.hold(&a, "second").await;
    a.drain("a new release is coming");
    let job = first.heartbeater();
    assert_eq!(
        job.heartbeat().unwrap_err(),
        Interrupted::Draining("a new release is coming".to_owned())
    );
    world.pass(world.timing().liveness_ttl * 2).await;
    assert!(
        first.is_valid() && second.is_valid(),
        "draining takes no lock from a job"
    );
    assert!(!world.is_free(&b, "first").await && !world.is_free(&b, "second").await);
    world.during(first.release()).await.unwrap();
    assert!(world.is_free(&b, "first").await && !world.is_free(&b, "second").await);
    world.during(second.release()).await.unwrap();
    assert!(world.is_free(&b, "second").await);
}

/// `setDraining` of `@clickup/distributed-locker`.
pub async fn draining_refuses_new_work_and_sends_waiters_home<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let guard = world.hold(&a, "k").await;
    let waiting = b.acquire("k", AcquireOptions::new().wait(Wait::Forever));
    let draining = async {
        world.timing_sleep(world.timing().retry_after).await;
        b.drain("enough");
    };
    let (waited, ()) = world
        .during(async { tokio::join!(waiting, draining) })
        .await;
    assert!(matches!(waited, Err(AcquireError::Draining(reason)) if reason == "enough"));
    let refused = b.acquire("other", AcquireOptions::new()).await;
    assert!(matches!(refused, Err(AcquireError::Draining(_))));
    assert!(guard.is_valid());
}

/// Attack 10 a.
pub async fn a_guard_outlives_the_handles_of_its_locker<F: Fixture>(world: World<F>) {
    let b = world.locker().await;
    let guard = {
        let a = world.locker().await;
        world.hold(&a, "k").await
    };
    world.pass(world.timing().liveness_ttl * 2).await;
    assert!(guard.is_valid(), "{:?}", guard.loss());
    assert!(!world.is_free(&b, "k").await);
    world.during(guard.release()).await.unwrap();
    assert!(world.is_free(&b, "k").await);
}

/// L3.
pub async fn the_last_handle_retires_the_process<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let process = locker.process_hash().unwrap();
    let clone = locker.clone();
    drop(locker);
    let store = world.store().await;
    let alive = store.read_process(&process).await.unwrap().value;
    assert!(matches!(alive, Liveness::Alive(_)), "a handle is left");
    drop(clone);
    // By itself the record would last for the whole TTL.
    let limit = world.timing().liveness_ttl / 2;
    world
        .until(limit, "the process is retired", async || {
            store.read_process(&process).await.unwrap().value == Liveness::Dead
        })
        .await;
}

/// Attack 10 b.
pub async fn terminating_with_a_job_still_running_keeps_its_lock<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let guard = world.hold(&a, "k").await;
    let still = world
        .during(a.terminate(world.timing().report_every))
        .await
        .unwrap_err();
    assert!(
        matches!(&still, TerminateError::StillRunning { keys } if keys[..] == [guard.key().clone()]),
        "{still:?}"
    );
    world.pass(world.timing().liveness_ttl * 2).await;
    assert!(guard.is_valid() && !world.is_free(&b, "k").await);
    world.during(guard.release()).await.unwrap();
    world
        .during(a.terminate(world.timing().liveness_ttl))
        .await
        .unwrap();
}

/// L3: one write, at once.
pub async fn terminating_frees_the_process_record_at_once<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let process = locker.process_hash().unwrap();
    drop(world.hold(&locker, "k").await);
    let began = world.now();
    world
        .during(locker.terminate(world.timing().liveness_ttl))
        .await
        .unwrap();
    let took = world.now().since(began);
    assert!(took < world.timing().liveness_ttl / 2, "{took:?}");
    let store = world.store().await;
    assert_eq!(
        store.read_process(&process).await.unwrap().value,
        Liveness::Dead
    );
    assert!(!world.has_record("k").await);
}

/// L3: the grace is all the time there is, also where the store does not answer.
pub async fn a_record_that_is_not_removed_within_the_grace_is_told<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    drop(world.hold(&locker, "k").await);
    let limit = world.timing().report_every;
    let released = async || locker.keys().is_empty();
    world.until(limit, "it is released", released).await;
    faulty.inject(Scope::all().of(Method::RetireProcess), Fault::Stall);
    let (grace, began) = (world.timing().report_every, world.now());
    let error = world.during(locker.terminate(grace)).await.unwrap_err();
    let took = world.now().since(began);
    assert!(matches!(error, TerminateError::Unconfirmed(_)), "{error:?}");
    assert!(took < grace + world.timing().liveness_ttl / 2, "{took:?}");
    assert!(!world.has_record("k").await, "it was released");
    // And what goes on in the background may be waited for again.
    faulty.heal();
    let grace = world.timing().liveness_ttl;
    world.during(locker.terminate(grace)).await.unwrap();
}

/// An end in good order is one that the store has confirmed.
pub async fn a_record_that_runs_out_is_not_told_as_retired<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let mut events = locker.events();
    faulty.inject(Scope::all().of(Method::RetireProcess), Fault::Refuse);
    let grace = world.timing().liveness_ttl * 2;
    let error = world.during(locker.terminate(grace)).await.unwrap_err();
    assert!(
        matches!(error, TerminateError::Unconfirmed(Some(_))),
        "{error:?}"
    );
    let again = world.during(locker.terminate(grace)).await.unwrap_err();
    assert!(
        matches!(again, TerminateError::Unconfirmed(Some(_))),
        "{again:?}"
    );
    // They end with it, whoever has a handle of it.
    let mut told = (0, 0);
    while let Some(event) = events.next().await {
        match event {
            Event::Reporter(ReporterEvent::NotRetired { error, .. }) => {
                assert!(error.is_some());
                told.0 += 1;
            }
            Event::Reporter(ReporterEvent::Retired(_)) => told.1 += 1,
            _ => {}
        }
    }
    assert_eq!(told, (1, 0));
    assert!(locker.ensure_running().await.is_err());
}

/// An error says what happened.
pub async fn a_terminated_locker_says_so<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let grace = world.timing().liveness_ttl;
    world.during(locker.terminate(grace)).await.unwrap();
    let error = locker
        .acquire("k", AcquireOptions::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("terminated"), "{error}");
    assert!(locker.ensure_running().await.is_err());
}
