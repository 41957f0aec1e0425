//! Losing a lock, and stopping first.

use super::World;
use crate::fixture::Fixture;
use crate::wrap::{Fault, Method, Scope};
use distributed_locker::{
    AcquireOptions, Event, ExtendError, Force, Heartbeater, Interrupted, LossReason, OnLost,
    Release, ReleaseError, ReporterEvent, Run, RunError,
};
use std::cell::Cell;
use std::future::pending;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// S5, hazard CU-1. The take-over is forced from outside, which only an operator can do (A5).
pub async fn the_old_owner_stops_itself_after_a_take_over<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let mut taken = None;
    let run = a.acquire_and_run("k", AcquireOptions::new(), async |job| {
        let owner = job.owner_hash().unwrap().clone();
        b.force_release(&owner, Force::Now).await.unwrap();
        taken = Some(world.hold(&b, "k").await);
        job.sleep(world.timing().lock_ttl * 10).await.unwrap_err();
    });
    let error = world.during(run).await.unwrap_err();
    let guard = taken.expect("the second process took it");
    assert!(
        matches!(&error, RunError::Lost { loss, .. }
        if loss.reason == LossReason::TakenOver(guard.owner_hash().clone())),
        "{error:?}"
    );
    assert!(guard.is_valid());
}

/// The same within one process.
pub async fn the_old_owner_stops_itself_after_a_take_over_by_its_own_process<F: Fixture>(
    world: World<F>,
) {
    let locker = world.locker().await;
    let old = world.hold(&locker, "k").await;
    locker
        .force_release(old.owner_hash(), Force::Now)
        .await
        .unwrap();
    let new = world.hold(&locker, "k").await;
    let limit = world.timing().recheck_every * 2 + world.timing().request_timeout * 2;
    world
        .until(limit, "the old guard is lost", async || !old.is_valid())
        .await;
    let by = new.owner_hash().clone();
    assert_eq!(old.loss().unwrap().reason, LossReason::TakenOver(by));
    assert!(new.is_valid());
    // S4: the old guard's release leaves the new one alone.
    assert!(matches!(old.release().await, Err(ReleaseError::Lost(_))));
    new.extend().await.unwrap();
}

/// S5.
pub async fn a_lost_lock_is_never_valid_again<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let guard = world.hold(&a, "k").await;
    b.force_release(guard.owner_hash(), Force::Now)
        .await
        .unwrap();
    let limit = world.timing().recheck_every * 2 + world.timing().request_timeout * 2;
    world
        .until(limit, "the guard is lost", async || !guard.is_valid())
        .await;
    for _ in 0..20 {
        world.pass(world.timing().report_every / 3).await;
        assert!(!guard.is_valid() && guard.valid_for() == Duration::ZERO);
        assert!(guard.extend().await.is_err());
    }
}

/// S6, attack 22, hazard CU-11: the release finds another owner, so the value is no success.
pub async fn a_job_that_ends_before_it_sees_the_loss_does_not_complete<F: Fixture>(
    world: World<F>,
) {
    let (a, b) = (world.locker().await, world.locker().await);
    let mut taken = None;
    let run = a.acquire_and_run("k", AcquireOptions::new(), async |job| {
        let owner = job.owner_hash().unwrap().clone();
        b.force_release(&owner, Force::Now).await.unwrap();
        taken = Some(world.hold(&b, "k").await);
        7
    });
    let error = world.during(run).await.unwrap_err();
    assert!(
        matches!(error, RunError::Lost { late: Some(7), .. }),
        "{error:?}"
    );
    assert!(taken.unwrap().is_valid());
}

/// S12, attack 18: not one step of a job is taken after its guard is invalid.
pub async fn a_job_that_is_lost_is_never_polled_again<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let last_seen_valid = Cell::new(true);
    let run = a.acquire_and_run("k", AcquireOptions::new(), async |job| {
        let owner = job.owner_hash().unwrap().clone();
        b.force_release(&owner, Force::Mark).await.unwrap();
        loop {
            last_seen_valid.set(last_seen_valid.get() && job.is_valid());
            tokio::task::yield_now().await;
            std::thread::yield_now();
        }
    });
    let error = world.during(run).await.unwrap_err();
    assert!(matches!(error, RunError::Lost { .. }));
    assert!(last_seen_valid.get(), "a step was taken without the lock");
}

/// S9, hazard CU-12: a release that fails takes nothing away from what the job returned.
pub async fn a_release_that_is_not_confirmed_stands_beside_the_result_of_the_job<F: Fixture>(
    world: World<F>,
) {
    let (locker, faulty) = world.faulty_locker().await;
    let run = locker.acquire_and_run("k", AcquireOptions::new(), async |_job| {
        faulty.inject(Scope::all().of(Method::Release), Fault::LoseRequest);
        Err::<(), _>("the job's own error")
    });
    match world.during(run).await.unwrap() {
        Run::Completed {
            value,
            release: Release::Unconfirmed(_),
        } => assert_eq!(value, Err("the job's own error")),
        other => panic!("{other:?}"),
    }
    assert!(world.has_record("k").await, "nothing has arrived yet");
    let timeout = world.timing().report_every;
    let run = locker.mutex("l", timeout, AcquireOptions::new(), async |_job| 5);
    let ran = world.during(run).await.unwrap();
    assert_eq!(ran.value, 5);
    assert!(matches!(ran.release, Release::Unconfirmed(_)), "{ran:?}");
    faulty.heal();
    let limit = world.timing().request_timeout * 3;
    world
        .until(limit, "it is released in the background", async || {
            !world.has_record("k").await
        })
        .await;
}

/// `OnLost::Signal`.
pub async fn a_signalled_job_goes_on_and_its_value_comes_late<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let options = AcquireOptions::new().on_lost(OnLost::Signal);
    let run = a.acquire_and_run("k", options, async |job| {
        let owner = job.owner_hash().unwrap().clone();
        b.force_release(&owner, Force::Mark).await.unwrap();
        let loss = job.lost().await;
        assert!(job.is_valid(), "the stop budget is there for cleaning up");
        loss.reason
    });
    let error = world.during(run).await.unwrap_err();
    assert!(
        matches!(&error, RunError::Lost { loss, late: Some(LossReason::ForceReleased) }
        if loss.reason == LossReason::ForceReleased),
        "{error:?}"
    );
}

/// A task that a job has left behind.
async fn spawned(job: Heartbeater) -> JoinHandle<LossReason> {
    let spawned = tokio::spawn(async move { job.lost().await.reason });
    // It waits before anything happens to the lock.
    tokio::task::yield_now().await;
    spawned
}

/// S12: the next owner may be there in a moment, so what a job has spawned hears of the end of its
/// guard when it comes, and not when it would have run out.
pub async fn what_outlives_a_guard_is_told_at_once<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let told = async |spawned: JoinHandle<LossReason>| {
        let told = tokio::time::timeout(Duration::from_secs(10), spawned).await;
        assert_eq!(told.expect("it is told").unwrap(), LossReason::Released);
    };
    let guard = world.hold(&locker, "k").await;
    let waits = spawned(guard.heartbeater()).await;
    world.during(guard.release()).await.unwrap();
    told(waits).await;
    let guard = world.hold(&locker, "dropped").await;
    let waits = spawned(guard.heartbeater()).await;
    drop(guard);
    told(waits).await;
    let (begun, job) = oneshot::channel();
    let run = locker.acquire_and_run("cancelled", AcquireOptions::new(), async |job| {
        begun.send(spawned(job).await).unwrap();
        pending::<()>().await;
    });
    let mut run = Box::pin(run);
    let waits = tokio::select! {
        _ = world.during(&mut run) => unreachable!("it never ends"),
        waits = job => waits.unwrap(),
    };
    drop(run);
    told(waits).await;
}

/// S9: a beat of somebody who has not heard of the release yet changes nothing about its answer.
pub async fn what_a_release_finds_is_told_as_it_is<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let guard = world.hold(&locker, "k").await;
    let job = guard.heartbeater();
    world.during(guard.release()).await.unwrap();
    let interrupted = job.heartbeat().unwrap_err();
    assert!(
        matches!(&interrupted, Interrupted::Lost(loss) if loss.reason == LossReason::Released),
        "{interrupted:?}"
    );
    let mut events = locker.events();
    let guard = world.hold(&locker, "k").await;
    let (owner, job) = (guard.owner_hash().clone(), guard.heartbeater());
    let forced = locker.force_release(&owner, Force::Now);
    world.during(forced).await.unwrap();
    let mut release = Box::pin(guard.release());
    let beating = async {
        tokio::select! {
            biased;
            released = &mut release => released,
            // As soon as the request is sent.
            () = tokio::task::yield_now() => {
                drop(job.heartbeat());
                release.await
            }
        }
    };
    let released = world.during(beating).await.unwrap_err();
    assert!(
        matches!(&released, ReleaseError::Lost(loss) if loss.reason == LossReason::Vanished),
        "{released:?}"
    );
    let reason = loop {
        if let Event::LostLock { owner: of, loss } = events.next().await.unwrap()
            && of == owner
        {
            break loss.reason;
        }
    };
    assert_eq!(reason, LossReason::Vanished);
}

/// S9: whoever repeats a release that was cancelled finds nothing, because it was executed.
pub async fn a_release_that_is_cancelled_is_no_loss<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let guard = world.hold(&locker, "k").await;
    let mut events = locker.events();
    let late = Fault::DelayReply(world.timing().request_timeout / 2);
    faulty.inject(Scope::all().of(Method::Release), late);
    let mut release = Box::pin(guard.release());
    world
        .until(world.timing().request_timeout, "it is sent", async || {
            tokio::select! {
                biased;
                _ = &mut release => unreachable!("its answer is late"),
                () = tokio::task::yield_now() => faulty.struck() > 0,
            }
        })
        .await;
    drop(release);
    faulty.heal();
    let limit = world.timing().start_timeout;
    world.during(locker.terminate(limit)).await.unwrap();
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::LostLock { .. }), "{event:?}");
    }
}

/// S12: whoever extends before a long step must not begin it without the lock.
pub async fn an_extension_that_fails_too_late_says_that_the_lock_is_lost<F: Fixture>(
    world: World<F>,
) {
    let (locker, faulty) = world.faulty_locker().await;
    let guard = world.hold(&locker, "k").await;
    faulty.inject(Scope::all(), Fault::Stall);
    let timing = world.timing();
    let late = timing.stop_budget + timing.request_timeout / 2;
    world
        .until(timing.liveness_ttl, "the lock runs out", async || {
            guard.valid_for() <= late
        })
        .await;
    let extended = world.during(guard.extend()).await.unwrap_err();
    assert!(
        matches!(&extended, ExtendError::Lost(loss) if loss.reason == LossReason::LivenessLapsed),
        "{extended:?}"
    );
    faulty.heal();
}

/// Attack 15: a forced release is a mark, and the owner stops first.
pub async fn an_operator_gets_the_lock_after_its_owner_has_stopped<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let guard = world.hold(&a, "k").await;
    b.force_release(guard.owner_hash(), Force::Mark)
        .await
        .unwrap();
    assert!(guard.is_valid(), "the mark alone ends nothing");
    let limit = world.timing().recheck_every * 2 + world.timing().stop_budget * 2;
    world
        .until(limit, "the operator gets the lock", async || {
            let free = world.is_free(&b, "k").await;
            assert!(!(free && guard.is_valid()), "two owners");
            free
        })
        .await;
    assert_eq!(guard.loss().unwrap().reason, LossReason::ForceReleased);
}

/// S9, hazard CU-12.
pub async fn an_error_of_the_job_reaches_the_caller_as_it_is<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let run = locker.acquire_and_run("k", AcquireOptions::new(), async |_| Err::<(), _>("broken"));
    let run = world.during(run).await.unwrap();
    assert!(matches!(
        run,
        Run::Completed {
            value: Err("broken"),
            ..
        }
    ));
    assert!(world.is_free(&locker, "k").await);
}

/// F15, attack 21: a record that is gone is noticed by the batched check.
pub async fn a_vanished_lock_is_noticed_within_one_recheck<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let guard = world.hold(&locker, "k").await;
    world
        .store()
        .await
        .force_release(guard.owner_hash(), Force::Now)
        .await
        .unwrap();
    let limit = world.timing().recheck_every + world.timing().request_timeout * 2;
    world
        .until(limit, "the loss is noticed", async || {
            guard.loss().is_some()
        })
        .await;
    assert_eq!(guard.loss().unwrap().reason, LossReason::Vanished);
}

/// Section "death is one-way": a process that finds its record gone has ended, and goes on as
/// another incarnation.
pub async fn a_vanished_process_record_ends_the_incarnation<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let guard = world.hold(&locker, "k").await;
    let process = locker.process_hash().unwrap();
    let mut events = locker.events();
    world.store().await.retire_process(&process).await.unwrap();
    let limit = world.timing().report_every * 2 + world.timing().request_timeout;
    world
        .until(limit, "the loss is noticed", async || {
            locker.process_hash().as_ref() != Some(&process)
        })
        .await;
    // The event that must not be forgotten comes last.
    let mut lost = 0;
    let locks = loop {
        match world.during(events.next()).await.unwrap() {
            Event::LostLock { owner, .. } => lost += usize::from(owner == *guard.owner_hash()),
            Event::Reporter(ReporterEvent::Ended { locks, .. }) => break locks,
            _ => {}
        }
    };
    assert_eq!((lost, locks), (1, 1));
    assert!(!guard.is_valid());
    assert_eq!(guard.loss().unwrap().reason, LossReason::LivenessLapsed);
    drop(guard);
    let next = world.during(locker.ensure_running()).await.unwrap();
    assert_ne!(next, process);
    world.hold(&locker, "k").await.release().await.unwrap();
}
