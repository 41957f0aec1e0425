//! Faults that can be played inside one process: lost answers, late requests, stalls.

use super::World;
use crate::fixture::Fixture;
use crate::wrap::{Fault, Method, Scope};
use distributed_locker::{
    AcquireError, AcquireOptions, BootClock, Clock, ErrorKind, Event, Events, HeartbeatPolicy,
    LockGuard, Locker, LossReason, ReleaseError, ReporterEvent, RunError, Trouble, Wait,
};
use locker_core::backend::Side;
use std::collections::HashSet;
use std::time::Duration;

/// F09, hazard CU-7: the create that was executed does not block its own repetition.
pub async fn a_lost_reply_to_acquire_is_settled_by_asking_again<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    faulty.inject(Scope::all().of(Method::TryCreate).once(), Fault::LoseReply);
    let guard = world.hold(&locker, "k").await;
    assert!(guard.is_valid());
    world.during(guard.release()).await.unwrap();
    assert!(!world.has_record("k").await);
}

/// F09.
pub async fn a_lost_request_to_acquire_is_settled_by_asking_again<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    faulty.inject(
        Scope::all().of(Method::TryCreate).once(),
        Fault::LoseRequest,
    );
    let guard = world.hold(&locker, "k").await;
    world.during(guard.release()).await.unwrap();
    assert!(!world.has_record("k").await);
}

/// Attack 1, S7: every answer is lost, so the caller gives up, though the lock was granted.
pub async fn an_acquisition_that_lands_after_its_caller_gave_up_leaves_nothing<F: Fixture>(
    world: World<F>,
) {
    let (locker, faulty) = world.faulty_locker().await;
    let fault = faulty.inject(Scope::all().of(Method::TryCreate), Fault::LoseReply);
    let error = world
        .during(locker.acquire("k", AcquireOptions::new()))
        .await
        .unwrap_err();
    assert!(matches!(error, AcquireError::Store(_)), "{error:?}");
    fault.lift();
    let limit = world.timing().request_timeout * 3 + world.timing().recheck_every * 2;
    world
        .until(limit, "everything is settled", async || {
            locker.keys().is_empty()
        })
        .await;
    assert!(!world.has_record("k").await);
}

/// Attack 1 as it was measured: the create is held back, compensated, and then delivered.
pub async fn an_acquisition_held_back_beyond_its_time_never_lands<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let fault = faulty.inject(Scope::all().of(Method::TryCreate), Fault::Hold);
    let acquiring = world
        .during(locker.acquire("k", AcquireOptions::new()))
        .await;
    assert!(acquiring.is_err(), "no answer came");
    fault.lift();
    let limit = world.timing().request_timeout * 4 + world.timing().recheck_every * 3;
    world
        .until(limit, "everything is settled", async || {
            locker.keys().is_empty()
        })
        .await;
    // It was forgotten only when nothing can land any more.
    for held in faulty.take_held() {
        held.deliver().await;
    }
    assert!(
        !world.has_record("k").await,
        "a late create landed after it was settled"
    );
}

/// F09, hazard CU-13: the caller's wait is bounded, the release goes on.
pub async fn a_lost_reply_to_release_is_settled_in_the_background<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let guard = world.hold(&locker, "k").await;
    faulty.inject(Scope::all().of(Method::Release).once(), Fault::LoseReply);
    let began = world.now();
    let released = world.during(guard.release()).await;
    let took = world.now().since(began);
    assert!(took <= world.timing().request_timeout * 3, "{took:?}");
    // The second release finds nothing: whether the first one did it nobody can say.
    assert!(
        matches!(released, Err(ReleaseError::Unconfirmed(_))),
        "{released:?}"
    );
    let limit = world.timing().recheck_every * 2;
    world
        .until(limit, "nothing is left", async || locker.keys().is_empty())
        .await;
    assert!(!world.has_record("k").await);
}

/// F09.
pub async fn a_lost_reply_to_a_report_loses_nothing<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let guard = world.hold_with(&locker, "k", options).await;
    for _ in 0..4 {
        faulty.inject(
            Scope::all().of(Method::RenewProcess).once(),
            Fault::LoseReply,
        );
        world.pass(world.timing().liveness_ttl / 2).await;
        assert!(guard.is_valid(), "{:?}", guard.loss());
    }
}

/// F09.
pub async fn a_lost_reply_to_an_extension_loses_nothing<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let guard = world.hold_with(&locker, "k", options).await;
    faulty.inject(Scope::all().of(Method::Extend).once(), Fault::LoseReply);
    world.pass(world.timing().lock_ttl * 3 / 2).await;
    assert!(guard.is_valid(), "{:?}", guard.loss());
}

/// Attack 7 a: a birth that was executed counts from its own send, or not at all.
pub async fn a_birth_of_unknown_outcome_is_abandoned<F: Fixture>(world: World<F>) {
    let faulty = crate::wrap::Faulty::new();
    faulty.inject(
        Scope::all().of(Method::CreateProcess).once(),
        Fault::LoseReply,
    );
    let locker = world.locker_over(faulty.around(world.process())).await;
    let process = locker.process_hash().unwrap();
    let page = locker_core::backend::Page {
        after: None,
        limit: 10,
    };
    let living = world
        .store()
        .await
        .list_processes(&page)
        .await
        .unwrap()
        .value
        .items;
    assert_eq!(
        living.len(),
        2,
        "the abandoned one and the new one: {living:?}"
    );
    world.pass(world.timing().liveness_ttl * 2).await;
    let living = world
        .store()
        .await
        .list_processes(&page)
        .await
        .unwrap()
        .value
        .items;
    assert_eq!(living.len(), 1, "the abandoned one dies by itself");
    assert_eq!(locker.process_hash().unwrap(), process);
}

/// F07, L4, S12, hazard CU-4.
pub async fn an_owner_cut_off_has_stopped_before_anybody_takes_over<F: Fixture>(world: World<F>) {
    let (a, faulty) = world.faulty_locker().await;
    let b = world.locker().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let stopped = std::cell::Cell::new(None);
    let cut = world.now();
    let run = async {
        let run = a.acquire_and_run("k", options, async |job| {
            faulty.inject(Scope::all(), Fault::Stall);
            let _job = job;
            std::future::pending::<()>().await;
        });
        let error = run.await.unwrap_err();
        stopped.set(Some(world.now()));
        error
    };
    let take = async {
        world.timing_sleep(world.timing().retry_after).await;
        let guard = b
            .acquire("k", AcquireOptions::new().wait(Wait::Forever))
            .await
            .unwrap();
        let guard = guard.guard().expect("granted");
        (
            guard,
            stopped.get().expect("the owner stops first"),
            world.now(),
        )
    };
    let (error, (guard, stopped, taken)) = world.during(async { tokio::join!(run, take) }).await;
    assert!(
        matches!(&error, RunError::Lost { loss, .. }
        if loss.reason == LossReason::LivenessLapsed),
        "{error:?}"
    );
    // That it has stopped before is seen where it is taken over; it would not stop by itself.
    let stopped = stopped.since(cut);
    let limit = world.timing().liveness_ttl + world.timing().report_every;
    assert!(stopped < limit, "stopped after {stopped:?}");
    let taken = taken.since(cut);
    assert!(taken <= world.seen_dead_within().await, "{taken:?}");
    assert!(guard.is_valid());
    faulty.heal();
}

/// L6: after the outage everything works again by itself, as another incarnation.
pub async fn a_process_cut_off_recovers_by_itself<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let guard = world.hold_with(&locker, "k", options).await;
    let former = locker.process_hash().unwrap();
    faulty.inject(Scope::all(), Fault::Refuse);
    world.pass(world.timing().liveness_ttl * 2).await;
    assert!(!guard.is_valid());
    faulty.heal();
    let process = world.during(locker.ensure_running()).await.unwrap();
    assert_ne!(
        process, former,
        "an incarnation that has ended never returns"
    );
    drop(guard);
    let limit = world.timing().liveness_ttl;
    world
        .until(limit, "it is granted again", async || {
            world.is_free(&locker, "k").await
        })
        .await;
}

/// F08, hazard CU-5: what counts is what was acknowledged.
pub async fn lost_replies_end_the_owner_although_its_record_stays_fresh<F: Fixture>(
    world: World<F>,
) {
    let (locker, faulty) = world.faulty_locker().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let guard = world.hold_with(&locker, "k", options).await;
    faulty.inject(Scope::all(), Fault::LoseReply);
    world.pass(world.timing().liveness_ttl).await;
    assert!(!guard.is_valid());
    assert_eq!(guard.loss().unwrap().reason, LossReason::LivenessLapsed);
    faulty.heal();
    drop(guard);
    // Attack 6: the record of the ended incarnation is retired as soon as its jobs have ended.
    let limit = world.timing().liveness_ttl;
    world
        .until(limit, "it is granted again", async || {
            world.is_free(&locker, "k").await
        })
        .await;
}

/// L5, F13.
pub async fn a_short_stall_of_the_store_loses_no_lock<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let guard = world.hold_with(&locker, "k", options).await;
    for _ in 0..3 {
        faulty.inject(Scope::all(), Fault::Stall);
        world.pass(world.timing().liveness_ttl * 3 / 10).await;
        faulty.heal();
        world.pass(world.timing().liveness_ttl).await;
        assert!(guard.is_valid(), "{:?}", guard.loss());
    }
}

/// F05, attack 11: the Reporter's thread stands still inside a backend call, and nobody needs it
/// for stopping in time.
pub async fn a_stalled_reporter_ends_the_guards_in_time<F: Fixture>(world: World<F>) {
    // A thread that stands still would stop virtual time itself, so this is played in real time on
    // every store: the memory store lives by the boot clock for once.
    let store = if world.is_virtual() {
        distributed_locker::memory()
    } else {
        world.process()
    };
    let faulty = crate::wrap::Faulty::new();
    let timing = world.timing();
    let builder = Locker::builder(faulty.around(store)).timing(timing);
    let locker = builder.start().await.expect("the locker starts");
    let clock = BootClock::new();
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let began = clock.now();
    let run = locker.acquire_and_run("k", options, async |_job| {
        faulty.inject(Scope::all().of(Method::RenewProcess), Fault::BlockThread);
        std::future::pending::<()>().await;
    });
    let error = run.await.unwrap_err();
    let took = clock.now().since(began);
    faulty.heal();
    assert!(matches!(error, RunError::Lost { .. }), "{error:?}");
    // The Reporter would never go on by itself.
    let limit = timing.liveness_ttl + timing.report_every;
    assert!(took < limit, "cancelled after {took:?}");
}

/// Attack 6 a: the create of an incarnation that ended while it was under way grants nothing.
pub async fn a_grant_of_an_ended_incarnation_is_worth_nothing<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let former = locker.process_hash().unwrap();
    // The create is executed late, when its process has lapsed here and another one was born.
    faulty.inject(Scope::all().of(Method::TryCreate).once(), Fault::LoseReply);
    let store = world.store().await;
    let options = AcquireOptions::new().wait(Wait::For(world.timing().liveness_ttl * 2));
    let acquiring = locker.acquire("k", options);
    let ending = async { store.retire_process(&former).await.unwrap() };
    let (acquired, _) = world
        .during(async { tokio::join!(acquiring, ending) })
        .await;
    let acquired = acquired.unwrap();
    let Some(guard) = acquired.guard() else {
        return;
    };
    if *guard.owner_hash().process() == former {
        // Somebody else has ended the incarnation behind the locker's back, and the store did not
        // see it. The next report does.
        let unseen = world.exceptions().dead_claimants_unseen;
        assert!(unseen.is_some(), "granted to a dead incarnation");
        let limit = world.timing().liveness_ttl;
        let what = "a grant of an incarnation that has ended is lost";
        world.until(limit, what, async || !guard.is_valid()).await;
    } else {
        assert!(guard.is_valid());
    }
}

/// The Reporter of `@clickup/distributed-locker` has an error event.
pub async fn errors_of_the_reporter_are_delivered<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let mut events = locker.events();
    faulty.inject(Scope::all().from(Side::Reports), Fault::Refuse);
    world.pass(world.timing().liveness_ttl * 3 / 2).await;
    faulty.heal();
    world.during(locker.ensure_running()).await.unwrap();
    let (mut failed, mut ended, mut born) = (0, 0, 0);
    let limit = Duration::from_millis(50);
    while let Ok(Some(event)) = tokio::time::timeout(limit, events.next()).await {
        match event {
            Event::Reporter(ReporterEvent::Failed(_)) => failed += 1,
            Event::Reporter(ReporterEvent::Ended { .. }) => ended += 1,
            Event::Reporter(ReporterEvent::Born(_)) => born += 1,
            _ => {}
        }
    }
    assert!(
        failed >= 3 && ended == 1 && born == 1,
        "{failed} {ended} {born}"
    );
}

/// What has happened since the subscription.
async fn told(events: &mut Events) -> Vec<Event> {
    let mut told = Vec::new();
    let limit = Duration::from_millis(50);
    while let Ok(Some(event)) = tokio::time::timeout(limit, events.next()).await {
        told.push(event);
    }
    told
}

/// Who looks at the events sees a loss come, and is not drowned in them.
pub async fn what_upkeep_meets_is_told_once_per_recheck<F: Fixture>(world: World<F>) {
    const LOCKS: usize = 40;
    let (locker, faulty) = world.faulty_locker().await;
    let guards = world.hold_many(&locker, LOCKS).await;
    let mut events = locker.events();
    faulty.inject(Scope::all().of(Method::Check), Fault::Refuse);
    faulty.inject(Scope::all().of(Method::Extend), Fault::Refuse);
    let began = world.now();
    world.pass(world.timing().extend_every * 2).await;
    let took = world.now().since(began);
    faulty.heal();
    let (mut extends, mut checks, mut most) = (0, 0, 0);
    for event in told(&mut events).await {
        let trouble = match event {
            Event::ExtendFailed(trouble) => {
                extends += 1;
                trouble
            }
            Event::CheckFailed(trouble) => {
                checks += 1;
                trouble
            }
            Event::Missed(events) => panic!("{events} events are too many"),
            _ => continue,
        };
        most = most.max(trouble.locks);
        assert!(trouble.owners.len() <= Trouble::SHOWN.min(trouble.locks));
        assert_eq!(trouble.error.unwrap().kind(), ErrorKind::Unavailable);
    }
    let intervals = took.div_duration_f64(world.timing().recheck_every);
    assert!(extends > 0 && checks > 0, "{extends} and {checks}");
    assert!(f64::from(extends.max(checks)) <= intervals + 1.0);
    assert!(most <= LOCKS && most > Trouble::SHOWN, "{most} locks");
    assert!(guards.iter().all(LockGuard::is_valid));
}

/// A release that nobody waits for is no secret, and neither is an attempt that may still land.
pub async fn what_departs_in_vain_is_told<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let released = world.hold(&locker, "released").await;
    let owner = released.owner_hash().clone();
    let mut events = locker.events();
    faulty.inject(Scope::all().of(Method::TryCreate), Fault::LoseReply);
    faulty.inject(Scope::all().of(Method::Settle), Fault::Refuse);
    faulty.inject(Scope::all().of(Method::Release), Fault::Refuse);
    let attempted = world.now();
    let attempt = locker.acquire("attempted", AcquireOptions::new());
    assert!(world.during(attempt).await.is_err());
    let dropped = world.now();
    drop(released);
    let (mut unconfirmed, mut unsettled) = (Vec::new(), Vec::new());
    let mut sort = |event| {
        match event {
            Event::ReleaseUnconfirmed(trouble) => unconfirmed.extend(trouble.owners),
            Event::AttemptUnsettled(trouble) => unsettled.extend(trouble.owners),
            _ => {}
        }
        !unconfirmed.is_empty() && !unsettled.is_empty()
    };
    // The store fails for as long as the Reporter's thread needs to try, which no clock tells. One
    // that keeps it a secret does so for ever.
    let both = async { while !sort(events.next().await.unwrap()) {} };
    let both = tokio::time::timeout(Duration::from_secs(15), both).await;
    both.expect("both are told");
    world.pass(world.timing().retry_after * 4).await;
    faulty.heal();
    for event in told(&mut events).await {
        sort(event);
    }
    let recheck = world.timing().recheck_every;
    let most = |since| world.now().since(since).as_nanos() / recheck.as_nanos() + 1;
    assert!(unconfirmed.iter().all(|told| *told == owner));
    assert!(
        unconfirmed.len() as u128 <= most(dropped),
        "{unconfirmed:?}"
    );
    let keys: HashSet<_> = unsettled.iter().map(|owner| owner.key().as_str()).collect();
    assert!(keys.into_iter().eq(["attempted"]), "{unsettled:?}");
    assert!(unsettled.len() as u128 <= most(attempted), "{unsettled:?}");
}

/// L7: one small write per H.
pub async fn the_reporter_writes_regularly<F: Fixture>(world: World<F>) {
    let (_locker, counted) = world.counted_locker().await;
    let before = counted.counts();
    let periods = 20;
    world.pass(world.timing().report_every * periods).await;
    let sent = counted.counts().since(&before);
    let reports = sent.from(Side::Reports, Method::RenewProcess);
    let expected = u64::from(periods);
    // The period is jittered down by up to a fifth.
    assert!(
        (expected * 8 / 10..=expected * 13 / 10 + 1).contains(&reports),
        "{reports} reports"
    );
    // A report that was not answered in time, as on a busy machine, is repeated over another connection.
    let connects = sent.from(Side::Reports, Method::Connect);
    let most = if world.is_virtual() { 0 } else { reports / 4 };
    assert!(connects <= most, "{connects} connections");
    assert_eq!(sent.total(), reports + connects, "nothing else: {sent:?}");
}

/// L7: n locks cost one request for each batch of the store's size per extend interval, and as many
/// checks per recheck.
pub async fn held_locks_cost_batches_not_requests<F: Fixture>(world: World<F>) {
    const LOCKS: usize = 130;
    let (locker, counted) = world.counted_locker().await;
    let guards = world.hold_many(&locker, LOCKS).await;
    let before = counted.counts();
    let intervals = 3;
    world.pass(world.timing().extend_every * intervals).await;
    let sent = counted.counts().since(&before);
    let batches = LOCKS.div_ceil(world.store().await.limits().batch);
    let (batches, intervals) = (batches as u64, u64::from(intervals));
    let extends = sent.from(Side::Upkeep, Method::Extend);
    assert!(
        (batches * (intervals - 1)..=batches * (intervals + 1)).contains(&extends),
        "{extends} extends"
    );
    // An extension checks as well, so every second point of the grid needs no check of its own.
    let rechecks = intervals * 2;
    let checks = sent.from(Side::Upkeep, Method::Check);
    assert!(checks <= batches * (rechecks + 1), "{checks} checks");
    assert!(guards.iter().all(distributed_locker::LockGuard::is_valid));
}
