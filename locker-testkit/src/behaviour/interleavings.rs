//! Interleavings of callers, the Reporter and a store that misbehaves, each of which once went
//! wrong.

use super::World;
use crate::fixture::Fixture;
use crate::scaled;
use crate::wrap::{Fault, Faulty, Method, Scope, Twist, Twisted};
use async_trait::async_trait;
use distributed_locker::{
    AcquireError, AcquireOptions, HeartbeatPolicy, Locker, LossReason, NotRunning, Release, Run,
    TerminateError, Wait,
};
use locker_core::backend::{
    Answer, Claim, Claimed, HintStream, Limits, Renewal, Reply, Side, Watcher,
};
use locker_core::{Backend, BackendError, Connect, Key, ProcessHash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// L3: a store that refuses is asked again with pauses, not as fast as it can say no.
pub async fn a_retirement_that_fails_is_repeated_with_pauses<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let retire = Scope::all().of(Method::RetireProcess);
    faulty.inject(retire.times(500), Fault::Refuse);
    let grace = world.timing().liveness_ttl;
    let error = world.during(locker.terminate(grace)).await.unwrap_err();
    assert!(matches!(error, TerminateError::Unconfirmed(Some(_))));
    let asked = faulty.struck();
    assert!((1..=100).contains(&asked), "asked {asked} times");
}

/// Whoever waits for a store that does not answer is sent home as well.
pub async fn draining_sends_home_who_waits_for_the_store<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    faulty.inject(Scope::all().of(Method::TryCreate), Fault::Refuse);
    let waiting = locker.acquire("k", AcquireOptions::new().wait(Wait::Forever));
    let draining = async {
        world.timing_sleep(world.timing().report_every).await;
        locker.drain("enough");
        world.timing_sleep(world.timing().liveness_ttl).await;
    };
    let waited = world
        .during(async {
            tokio::select! {
                waited = waiting => Some(waited),
                () = draining => None,
            }
        })
        .await;
    assert!(
        matches!(waited, Some(Err(AcquireError::Draining(_)))),
        "{waited:?}"
    );
    let grace = world.timing().liveness_ttl;
    world.during(locker.terminate(grace)).await.unwrap();
}

/// S7: only what was not answered is settled; a waiter that leaves holds up no termination.
pub async fn a_waiter_whose_claims_were_answered_leaves_nothing_to_settle<F: Fixture>(
    world: World<F>,
) {
    let a = world.locker().await;
    let (b, counted) = world.counted_locker().await;
    let _guard = world.hold(&a, "k").await;
    let waiting = b.acquire("k", AcquireOptions::new().wait(Wait::Forever));
    // Long after the first try, and the one that follows the subscription.
    let leaving = world.timing_sleep(world.timing().liveness_ttl / 2);
    world
        .during(async {
            tokio::select! {
                _ = waiting => unreachable!("it is held"),
                () = leaving => {}
            }
        })
        .await;
    let grace = world.timing().liveness_ttl;
    world.during(b.terminate(grace)).await.unwrap();
    let sent = counted.counts();
    assert_eq!(sent.from(Side::Upkeep, Method::Settle), 0, "{sent:?}");
}

/// A grant that comes too late to be used is given back, and whoever has time goes on waiting.
pub async fn a_waiter_that_is_granted_too_late_goes_on_waiting<F: Fixture>(world: World<F>) {
    let a = world.locker().await;
    let (b, faulty) = world.faulty_locker().await;
    let guard = world.hold(&a, "k").await;
    let other = world.hold(&b, "other").await;
    faulty.inject(Scope::all().of(Method::RenewProcess), Fault::Refuse);
    let end = other.valid_until().unwrap();
    let waiting = b.acquire("k", AcquireOptions::new().wait(Wait::Forever));
    let releasing = async {
        // `b` can still ask the store, but what it is granted now it would have to give up at once.
        let soft = end - world.timing().stop_budget / 2;
        world.timing_sleep(soft.since(world.now())).await;
        guard.release().await.unwrap();
        world.timing_sleep(world.timing().report_every).await;
        faulty.heal();
    };
    let (acquired, ()) = world
        .during(async { tokio::join!(waiting, releasing) })
        .await;
    let guard = acquired.unwrap().guard().expect("granted");
    assert!(guard.is_valid() && other.loss().is_some());
}

/// To this store every process that asks for this lock is dead, a thousand times.
#[derive(Debug, Clone, Default)]
struct DeadClaimants(Arc<AtomicU32>);

#[async_trait]
impl Twist for DeadClaimants {
    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        let is_denied = claim.owner.key().as_str() == "denied";
        if is_denied && self.0.fetch_add(1, Ordering::Relaxed) < 1000 {
            let time = store.try_create(claim).await?.store_time;
            store.release(&claim.owner).await?;
            return Ok(Reply {
                value: Claimed::OwnerDead,
                store_time: time,
            });
        }
        store.try_create(claim).await
    }
}

/// Two servers that see different process records must not be filled with incarnations.
pub async fn incarnations_that_the_store_denies_are_replaced_with_pauses<F: Fixture>(
    world: World<F>,
) {
    let denied = DeadClaimants::default();
    let locker = world
        .locker_over(Twisted::connect(world.process(), denied.clone()))
        .await;
    let patience = world.timing().report_every;
    let acquired = locker.acquire("denied", AcquireOptions::new().wait(Wait::For(patience)));
    let refused = world.during(acquired).await.unwrap_err();
    let is_denied = matches!(refused, AcquireError::NotRunning(NotRunning::Denied));
    assert!(is_denied, "{refused:?}");
    let asked = denied.0.swap(999, Ordering::Relaxed);
    assert!((1..=40).contains(&asked), "asked {asked} times");
    // Once is what happens to a process whose record was deleted.
    world.during(locker.ensure_running()).await.unwrap();
    let acquired = locker.acquire(
        "denied",
        AcquireOptions::new().wait(Wait::For(Duration::ZERO)),
    );
    let refused = world.during(acquired).await.unwrap_err();
    let is_unreported = matches!(refused, AcquireError::NotRunning(NotRunning::Unreported(_)));
    assert!(is_unreported, "{refused:?}");
}

/// S5, S12: to whom the store calls a process dead it may give its locks. The jobs hear of it at once, also
/// while a report is under way.
pub async fn jobs_of_a_process_that_is_called_dead_stop_at_once<F: Fixture>(world: World<F>) {
    let faulty = Faulty::new();
    let store = Twisted::connect(world.process(), DeadClaimants::default());
    // A report takes so long that a busy machine is not taken for one.
    let timing = scaled(world.timing().liveness_ttl * 2);
    let starting = world.builder(faulty.around(store)).timing(timing).start();
    let locker = world.during(starting).await.unwrap();
    let guard = world.hold(&locker, "k").await;
    faulty.inject(Scope::all().of(Method::RenewProcess), Fault::Stall);
    world
        .until(
            timing.report_every * 2,
            "a report is under way",
            async || faulty.struck() > 0,
        )
        .await;
    let began = world.now();
    let stopped = async {
        tokio::select! {
            biased;
            loss = guard.lost() => loss,
            refused = locker.acquire("denied", AcquireOptions::new()) => {
                assert!(refused.is_err(), "{refused:?}");
                guard.lost().await
            }
        }
    };
    let loss = world.during(stopped).await;
    assert_eq!(loss.reason, LossReason::LivenessLapsed);
    // The report would be waited for to the end of its time.
    let took = world.now().since(began);
    assert!(took < timing.request_timeout * 2 / 3, "told after {took:?}");
    faulty.heal();
}

/// The subscriptions of this store end at once, a thousand times.
#[derive(Debug, Clone, Default)]
struct EndedHints(Arc<AtomicU32>);

#[async_trait]
impl Twist for EndedHints {
    async fn watch(
        &self,
        store: &dyn Backend,
        key: &Key,
        watcher: &Watcher,
    ) -> Result<HintStream, BackendError> {
        if self.0.fetch_add(1, Ordering::Relaxed) < 1000 {
            return Ok(Box::pin(futures_util::stream::empty()));
        }
        store.watch(key, watcher).await
    }
}

/// S10: hints that do not come cost polls, and no storm of subscriptions.
pub async fn subscriptions_that_end_at_once_are_renewed_with_pauses<F: Fixture>(world: World<F>) {
    let a = world.locker().await;
    let hints = EndedHints::default();
    let b = world
        .locker_over(Twisted::connect(world.process(), hints.clone()))
        .await;
    let _guard = world.hold(&a, "k").await;
    let patience = world.timing().report_every;
    let acquired = b.acquire("k", AcquireOptions::new().wait(Wait::For(patience)));
    let acquired = world.during(acquired).await.unwrap();
    assert!(acquired.guard().is_none());
    let asked = hints.0.load(Ordering::Relaxed);
    assert!((1..=20).contains(&asked), "subscribed {asked} times");
}

/// `Wait::For` is a limit, whatever it is that takes so long.
pub async fn a_waiter_gives_up_at_its_deadline_though_the_store_fails<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    faulty.inject(Scope::all().of(Method::TryCreate), Fault::Refuse);
    let patience = world.timing().report_every;
    let began = world.now();
    let acquired = locker.acquire("k", AcquireOptions::new().wait(Wait::For(patience)));
    let error = world.during(acquired).await.unwrap_err();
    let took = world.now().since(began);
    assert!(matches!(error, AcquireError::Store(_)), "{error:?}");
    assert!(
        took <= patience + world.timing().request_timeout,
        "{took:?}"
    );
}

/// Attack 19: the Reporter deletes what a job that hangs has lost, however often the store fails.
pub async fn a_lost_lock_is_freed_under_its_job_although_a_release_was_lost<F: Fixture>(
    world: World<F>,
) {
    let (a, faulty) = world.faulty_locker().await;
    let b = world.locker().await;
    let release = Scope::all().of(Method::Release).from(Side::Upkeep);
    faulty.inject(release.once(), Fault::LoseRequest);
    // Its job never beats, and never ends.
    let guard = world.hold(&a, "k").await;
    let timing = world.timing();
    world.pass(timing.lock_ttl).await;
    let limit = timing.stop_budget + timing.request_timeout * 2 + timing.recheck_every;
    world
        .until(limit, "the lock is free", async || {
            world.is_free(&b, "k").await
        })
        .await;
    assert!(faulty.struck() > 0 && !guard.is_valid());
}

/// The Reporter ends locks, and the store's TTL is only a net whose mesh is as long as the process.
#[derive(Debug, Clone)]
struct KeptByReporter;

#[async_trait]
impl Twist for KeptByReporter {
    fn limits(&self, store: &dyn Backend) -> Limits {
        Limits {
            lock_ttl_kept_by: locker_core::backend::KeptBy::Reporter,
            ..store.limits()
        }
    }
}

/// S7: where no record runs out by itself, a release is repeated until the store has confirmed it.
pub async fn a_release_goes_on_where_records_do_not_run_out<F: Fixture>(world: World<F>) {
    let faulty = Faulty::new();
    let twisted = Twisted::connect(world.process(), KeptByReporter);
    let locker = world.locker_over(faulty.around(twisted)).await;
    let guard = world.hold(&locker, "k").await;
    faulty.inject(Scope::all().of(Method::Release), Fault::Refuse);
    drop(guard);
    world.pass(world.timing().lock_ttl * 3 / 2).await;
    assert!(!locker.keys().is_empty(), "it was given up");
    faulty.heal();
    let limit = world.timing().recheck_every;
    world
        .until(limit, "it is confirmed", async || locker.keys().is_empty())
        .await;
}

/// A store that can be opened until it is told to hang.
#[derive(Debug)]
struct Hanging {
    inner: Arc<dyn Connect>,
    hangs: std::sync::atomic::AtomicBool,
    under_way: Arc<AtomicUsize>,
}

struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Connect for Hanging {
    async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let _under_way = UnderWay(Arc::clone(&self.under_way));
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.inner.connect(side).await
    }
}

/// L8, attack 30: in an outage a Reporter has at most two sockets to the store.
pub async fn connects_that_hang_do_not_pile_up<F: Fixture>(world: World<F>) {
    let faulty = Faulty::new();
    let hanging = Arc::new(Hanging {
        inner: faulty.around(world.process()),
        hangs: std::sync::atomic::AtomicBool::new(false),
        under_way: Arc::default(),
    });
    let connect: Arc<dyn Connect> = hanging.clone();
    let locker = world.locker_over(connect).await;
    hanging.hangs.store(true, Ordering::Relaxed);
    faulty.inject(Scope::all().of(Method::RenewProcess), Fault::Refuse);
    world.pass(world.timing().liveness_ttl * 10).await;
    let under_way = hanging.under_way.load(Ordering::Relaxed);
    assert!(under_way <= 3, "{under_way} connects under way");
    hanging.hangs.store(false, Ordering::Relaxed);
    faulty.heal();
    world.during(locker.ensure_running()).await.unwrap();
}

/// The client of this store has a bug, once.
#[derive(Debug, Clone, Default)]
struct Panics(Arc<AtomicU32>);

#[async_trait]
impl Twist for Panics {
    async fn renew_process(
        &self,
        store: &dyn Backend,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Renewal> {
        if self.0.fetch_add(1, Ordering::Relaxed) == 1 {
            // Not by `panic!`: its hook may write a backtrace, which in a large debug build takes a
            // busy machine longer than the scaled times of this test allow.
            std::panic::resume_unwind(Box::new("a bug that the test put there"));
        }
        store.renew_process(process, ttl).await
    }
}

/// A panic inside a backend costs its request, not the Reporter and with it every lock.
pub async fn a_backend_that_panics_costs_one_request<F: Fixture>(world: World<F>) {
    let panics = Panics::default();
    let locker = world
        .locker_over(Twisted::connect(world.process(), panics.clone()))
        .await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let guard = world.hold_with(&locker, "k", options).await;
    world.pass(world.timing().liveness_ttl * 2).await;
    assert!(panics.0.load(Ordering::Relaxed) > 2);
    assert!(guard.is_valid(), "{:?}", guard.loss());
    world.during(guard.release()).await.unwrap();
}

/// S6, S9: that a second release finds nothing may be the work of the first one, whose answer was
/// lost. The job has ended under a valid lock all the same.
pub async fn a_lost_reply_to_a_release_is_no_loss<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    faulty.inject(Scope::all().of(Method::Release).once(), Fault::LoseReply);
    completes_unconfirmed(&world, &locker).await;
}

/// S6, S9: the same where it was the Reporter's release, because the caller's never reached the store.
pub async fn a_lost_reply_to_the_reporters_release_is_no_loss<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let releases = |side| Scope::all().of(Method::Release).from(side).once();
    faulty.inject(releases(Side::Caller), Fault::Refuse);
    faulty.inject(releases(Side::Upkeep), Fault::LoseReply);
    completes_unconfirmed(&world, &locker).await;
    assert_eq!(faulty.struck(), 2);
}

/// A job completes, and nobody can say whether its release was the one that freed the lock.
async fn completes_unconfirmed<F: Fixture>(world: &World<F>, locker: &Locker) {
    let run = locker.acquire_and_run("k", AcquireOptions::new(), async |_| 7);
    let run = world.during(run).await.unwrap();
    assert!(
        matches!(
            run,
            Run::Completed {
                value: 7,
                release: Release::Unconfirmed(_)
            }
        ),
        "{run:?}"
    );
    assert!(!world.has_record("k").await);
}

/// L8: a store that never answers again keeps nothing alive. What an incarnation that has ended may
/// have left there blocks nobody.
pub async fn what_an_ended_incarnation_left_is_forgotten<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    faulty.inject(Scope::all().of(Method::TryCreate), Fault::LoseReply);
    let acquiring = locker.acquire("k", AcquireOptions::new());
    world.during(acquiring).await.expect_err("no answer came");
    faulty.inject(Scope::all(), Fault::Refuse);
    assert_eq!(locker.keys().len(), 1, "it is to be settled");
    let limit = world.timing().liveness_ttl * 4;
    world
        .until(limit, "it is forgotten", async || locker.keys().is_empty())
        .await;
}
