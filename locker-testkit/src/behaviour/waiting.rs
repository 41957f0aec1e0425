//! Waiting for a lock: the mutex, the standby, and who is served next.

use super::World;
use crate::fixture::Fixture;
use crate::wrap::{Fault, Method, Scope, Twist, Twisted};
use async_trait::async_trait;
use distributed_locker::{
    AcquireOptions, Acquired, HeartbeatPolicy, LockGuard, Locker, MutexError, Release, Trace, Wait,
};
use futures_util::future::join_all;
use locker_core::backend::{Answer, Birth, Claim, Claimed, Limits, Liveness};
use locker_core::{Backend, Host, Key, OwnerHash, ProcessHash, StoreTime};
use std::cell::{Cell, RefCell};
use std::time::Duration;

/// Counts who is inside, and how many came at all.
#[derive(Default)]
struct Inside {
    now: Cell<u32>,
    ever: Cell<u32>,
}

async fn compete<F: Fixture>(world: &World<F>, lockers: &[Locker], rounds: usize) {
    let inside = Inside::default();
    let work = world.timing().retry_after / 10;
    let jobs = (0..rounds).map(|round| {
        let locker = &lockers[round % lockers.len()];
        let inside = &inside;
        async move {
            let patience = world.timing().start_timeout * 4;
            let options = AcquireOptions::new().poll_every(world.timing().recheck_every);
            let job = async |job: distributed_locker::Heartbeater| {
                assert_eq!(inside.now.replace(1), 0, "two jobs at once");
                job.sleep(work).await.unwrap();
                assert_eq!(inside.now.replace(0), 1);
                inside.ever.set(inside.ever.get() + 1);
            };
            locker.mutex("k", patience, options, job).await.unwrap();
        }
    });
    world.during(join_all(jobs)).await;
    assert_eq!(inside.ever.get() as usize, rounds);
}

/// The mutex test of `@clickup/distributed-locker`, one locker.
pub async fn a_mutex_in_one_process_never_overlaps<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    compete(&world, &[locker], 20).await;
}

/// The same with two.
pub async fn a_mutex_across_two_processes_never_overlaps<F: Fixture>(world: World<F>) {
    let lockers = [world.locker().await, world.locker().await];
    compete(&world, &lockers, 20).await;
}

/// Hazard CU-17: the deadline holds, and the error says who it was.
pub async fn a_mutex_gives_up_at_its_deadline_and_names_the_holder<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let guard = world.hold(&a, "k").await;
    let (began, timeout) = (world.now(), world.timing().report_every);
    // What the options say of waiting has no effect.
    let options = AcquireOptions::new().wait(Wait::Forever);
    let run = b.mutex("k", timeout, options, async |_| unreachable!("it is held"));
    let error = world.during(run).await.unwrap_err();
    let took = world.now().since(began);
    // Who forgot the time would look when the holder may be dead, after four fifths of T.
    let limit = timeout + world.timing().liveness_ttl / 2;
    assert!(took >= timeout && took < limit, "{took:?}");
    assert!(
        matches!(&error, MutexError::<()>::TimedOut { holder }
        if holder.owner == *guard.owner_hash()),
        "{error:?}"
    );
}

/// A mutex is an acquisition like the others: with a trace, a loss policy, a heartbeat policy.
pub async fn a_mutex_takes_what_an_acquisition_may_ask_for<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let (timing, trace) = (world.timing(), Trace::new("ticket 5").unwrap());
    let options = AcquireOptions::new()
        .trace(trace.clone())
        .heartbeat(HeartbeatPolicy::Automatic);
    let run = locker.mutex("k", timing.report_every, options, async |job| {
        world.timing_sleep(timing.lock_ttl * 5 / 4).await;
        job.owner_hash().and_then(|owner| owner.trace().cloned())
    });
    let ran = world.during(run).await.unwrap();
    assert_eq!(ran.value, Some(trace));
    assert!(matches!(ran.release, Release::Confirmed), "{ran:?}");
}

/// Waits for "k", which is released after a while, and is granted it by the hint. Answers how long after.
///
/// Without the hint it would look when the holder may be dead, which is T after its last report; that is
/// three fifths of T after the release at the soonest.
async fn is_woken<F: Fixture>(
    world: &World<F>,
    waiter: &Locker,
    holder: LockGuard,
    after: Duration,
) -> (LockGuard, Duration) {
    let waiting = async {
        let acquired = waiter.acquire("k", patient(world)).await.unwrap();
        (acquired, world.now())
    };
    let releasing = async {
        world.timing_sleep(after).await;
        let released = world.now();
        holder.release().await.unwrap();
        released
    };
    let ((acquired, at), released) = world
        .during(async { tokio::join!(waiting, releasing) })
        .await;
    let took = at.since(released);
    assert!(
        took < world.timing().report_every * 2,
        "woken after {took:?}"
    );
    (acquired.guard().expect("granted"), took)
}

/// L1, hazard PG-11. The net under the hint is far away here.
pub async fn a_release_wakes_the_waiter<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let guard = world.hold(&a, "k").await;
        let after = world.timing().report_every / 2;
        let (guard, took) = is_woken(&world, &b, guard, after).await;
        quickest = quickest.min(took);
        world.during(guard.release()).await.unwrap();
    }
    // 50 ms are promised. A busy machine takes as much again from one wake-up, but not from all.
    assert!(quickest < world.timing().report_every / 2, "{quickest:?}");
}

/// A store whose claims do not say whether the holder lives, and which is silent when it is asked.
#[derive(Debug, Clone)]
struct Reticent;

#[async_trait]
impl Twist for Reticent {
    fn limits(&self, store: &dyn Backend) -> Limits {
        Limits {
            cheap_death_poll: None,
            ..store.limits()
        }
    }

    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        let mut reply = store.try_create(claim).await?;
        if let Claimed::Held(held) = &mut reply.value {
            held.holder = None;
        }
        Ok(reply)
    }

    async fn read_process(&self, _: &dyn Backend, _: &ProcessHash) -> Answer<Liveness> {
        std::future::pending().await
    }
}

/// L1: that nothing is heard of the holder's process does not make an error of a lock that is held, and
/// keeps nobody from hearing of its release.
pub async fn a_holder_of_whom_nothing_is_heard_is_waited_for<F: Fixture>(world: World<F>) {
    let a = world.locker().await;
    let connect = Twisted::connect(world.process(), Reticent);
    let b = world.locker_over(connect).await;
    let guard = world.hold(&a, "k").await;
    let begun = world.now();
    let refused = world.during(b.acquire("k", AcquireOptions::new())).await;
    let took = world.now().since(begun);
    assert!(
        matches!(&refused, Ok(Acquired::SomeoneElseHoldsLock(holder))
            if holder.owner == *guard.owner_hash()),
        "{refused:?}"
    );
    let timing = world.timing();
    assert!(took < timing.request_timeout * 2, "after {took:?}");
    // It has asked in vain, before it enrolled and after it, and is not to look again for a while. If it is
    // late and does, it heeds the hint one request later.
    let after = timing.request_timeout * 2 + timing.retry_after;
    let _granted = is_woken(&world, &b, guard, after).await;
}

/// Waiters of one process queue locally.
pub async fn local_waiters_are_served_in_order<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let guard = world.hold(&locker, "k").await;
    let served = RefCell::new(Vec::new());
    let waiters = (0..8).map(|place| {
        let (locker, served, options) = (&locker, &served, patient(&world));
        async move {
            let guard = locker
                .acquire("k", options)
                .await
                .unwrap()
                .guard()
                .expect("granted");
            served.borrow_mut().push(place);
            guard.release().await.unwrap();
        }
    });
    let releasing = async {
        world.timing_sleep(world.timing().retry_after).await;
        guard.release().await.unwrap();
    };
    world
        .during(async { tokio::join!(join_all(waiters), releasing) })
        .await;
    assert_eq!(*served.borrow(), (0..8).collect::<Vec<_>>());
}

/// F31, attack 36: the one who was to be served next has gone.
pub async fn a_waiter_that_leaves_holds_up_nobody<F: Fixture>(world: World<F>) {
    let (a, b, c) = (
        world.locker().await,
        world.locker().await,
        world.locker().await,
    );
    let guard = world.hold(&a, "k").await;
    let options = patient(&world);
    let (leaving, staying) = (b.acquire("k", options.clone()), c.acquire("k", options));
    let pause = world.timing().report_every;
    let leaving = async {
        tokio::select! {
            // Granted in that very moment: then it gives the lock back.
            granted = leaving => drop(granted),
            () = world.timing_sleep(pause) => {}
        }
    };
    let releasing = async {
        // The waiter in front goes away in the very moment of the release.
        world.timing_sleep(pause).await;
        let released = world.now();
        guard.release().await.unwrap();
        released
    };
    let staying = async { (staying.await.unwrap(), world.now()) };
    let ((), released, (acquired, at)) = world
        .during(async { tokio::join!(leaving, releasing, staying) })
        .await;
    assert!(acquired.guard().is_some());
    let took = at.since(released);
    // Without the hint, as at `is_woken`.
    let limit = world.timing().report_every * 2;
    assert!(took < limit, "served after {took:?}");
}

/// PgIpLock: `onRelease` and the standby.
pub async fn a_standby_takes_over_on_release<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let guard = world.hold(&a, "k").await;
    let mut standby = b.standby("k", patient(&world)).unwrap();
    let releasing = async {
        world.timing_sleep(world.timing().retry_after).await;
        guard.release().await.unwrap();
    };
    let (taken, ()) = world
        .during(async { tokio::join!(standby.next(), releasing) })
        .await;
    let first = taken.unwrap();
    // It stands by again after it has lost or given up what it held.
    let before = first.token();
    world.during(first.release()).await.unwrap();
    let second = world.during(standby.next()).await.unwrap();
    assert!(second.token() > before);
}

/// PgIpLock: the owner crashes.
pub async fn a_standby_takes_over_from_the_dead<F: Fixture>(world: World<F>) {
    let b = world.locker().await;
    world.plant_dead_owner("k").await;
    let mut standby = b.standby("k", patient(&world)).unwrap();
    let (began, guard) = (world.now(), world.during(standby.next()).await.unwrap());
    let took = world.now().since(began);
    assert!(
        guard.is_valid() && took <= world.seen_dead_within().await,
        "taken over after {took:?}"
    );
}

/// PgIpLock: `acquireInterval`. This process never gets a hint: subscribing fails.
pub async fn a_standby_takes_over_by_periodic_retry<F: Fixture>(world: World<F>) {
    let (b, faulty) = world.faulty_locker().await;
    let a = world.locker().await;
    faulty.inject(Scope::all().of(Method::Watch), Fault::Refuse);
    let guard = world.hold(&a, "k").await;
    let every = world.timing().report_every;
    let mut standby = b
        .standby("k", AcquireOptions::new().poll_every(every))
        .unwrap();
    let releasing = async {
        world.timing_sleep(every / 2).await;
        let released = world.now();
        guard.release().await.unwrap();
        released
    };
    let (taken, released) = world
        .during(async { tokio::join!(standby.next(), releasing) })
        .await;
    let took = world.now().since(released);
    assert!(
        taken.unwrap().is_valid() && took <= every * 2,
        "taken after {took:?}"
    );
    assert!(faulty.struck() > 0, "a hint may have come");
}

/// Hazard CU-4 the right way round: the liveness TTL decides, though the lock TTL is long.
pub async fn a_process_that_dies_frees_its_lock_within_one_liveness_ttl<F: Fixture>(
    world: World<F>,
) {
    let b = world.locker().await;
    let began = world.now();
    world.plant_dead_owner("k").await;
    assert!(
        !world.is_free(&b, "k").await,
        "the process counts as alive for one T"
    );
    let Acquired::Guard(guard) = world.during(b.acquire("k", patient(&world))).await.unwrap()
    else {
        panic!("the dead keep nothing");
    };
    let took = world.now().since(began);
    let t = world.timing().liveness_ttl;
    assert!(
        took >= t * 9 / 10 && took <= world.seen_dead_within().await,
        "after {took:?}"
    );
    assert!(guard.is_valid());
}

fn patient<F: Fixture>(world: &World<F>) -> AcquireOptions {
    let net = world.timing().lock_ttl * 10;
    AcquireOptions::new().wait(Wait::Forever).poll_every(net)
}

impl<F: Fixture> World<F> {
    /// When it is seen at the latest that a silent process is dead. A store of coarse TTLs looks for the
    /// dead no oftener than it can tell them. L2 allows 0.5 s, and real time needs some of it.
    pub(super) async fn seen_dead_within(&self) -> Duration {
        let lag = self.store().await.limits().ttl_granularity / 2;
        let real = Duration::from_millis(if self.is_virtual() { 0 } else { 500 });
        self.timing().liveness_ttl + self.timing().report_every + lag + real
    }

    /// Sleeps on the clock of the lockers, inside [`World::during`].
    pub(super) async fn timing_sleep(&self, duration: Duration) {
        let until = self.now() + duration;
        while self.now() < until {
            if self.is_virtual() {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(until.since(self.now())).await;
            }
        }
    }

    /// A lock whose owner has just reported for the last time.
    pub(super) async fn plant_dead_owner(&self, key: &str) {
        let store = self.store().await;
        let process = ProcessHash::new(&Host::new("dead").unwrap(), 1, 0xdead);
        let timing = self.timing();
        let birth = store
            .create_process(&process, timing.liveness_ttl)
            .await
            .unwrap();
        assert!(matches!(birth.value, Birth::Created { .. }));
        let claim = Claim {
            owner: OwnerHash::new(&Key::new(key).unwrap(), &process, 0, None),
            ttl: timing.lock_ttl * 10,
            not_after: StoreTime::from_micros(u64::MAX),
        };
        let claimed = store.try_create(&claim).await.unwrap().value;
        assert!(matches!(claimed, Claimed::Granted(_)), "{claimed:?}");
        // The process goes on existing, and its kernel objects with it: it only never reports.
        self.keep(store);
    }
}
