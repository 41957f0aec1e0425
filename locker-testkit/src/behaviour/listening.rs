//! Hearing of releases without wanting the lock.

use super::World;
use crate::fixture::Fixture;
use crate::wrap::{Fault, Faulty, Method, Scope, Twist, Twisted};
use async_trait::async_trait;
use distributed_locker::{AcquireOptions, HeartbeatPolicy, Releases};
use locker_core::backend::{Hint, HintStream, Limits, Watcher};
use locker_core::{Backend, BackendError, Key};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How often a stream reads the lock where the store gives no hints.
const READ_EVERY: Duration = Duration::from_millis(500);

/// `on_release` has no place in the order, and delays nobody. However many releases there were since it
/// was asked the last time, it tells of the last one.
pub async fn a_release_is_heard_by_who_only_listens<F: Fixture>(world: World<F>) {
    let (a, b) = (world.locker().await, world.locker().await);
    let mut releases = b.on_release("k").await.unwrap();
    let limit = world.timing().recheck_every;
    for round in 0..2 {
        for _ in 0..=round {
            let guard = world.hold(&a, "k").await;
            guard.release().await.unwrap();
        }
        let heard = async { tokio::time::timeout(limit, releases.next()).await };
        assert_eq!(
            heard.await.expect("heard in time"),
            Some(Key::new("k").unwrap())
        );
    }
    assert!(world.is_free(&b, "k").await);
}

/// The first subscription of this store is rebuilt and ends, the second one is refused.
#[derive(Debug, Clone, Default)]
struct BrokenHints(Arc<AtomicU32>);

#[async_trait]
impl Twist for BrokenHints {
    async fn watch(
        &self,
        store: &dyn Backend,
        key: &Key,
        watcher: &Watcher,
    ) -> Result<HintStream, BackendError> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(Box::pin(futures_util::stream::iter([Hint::Rebuilt]))),
            1 => Err(BackendError::timeout()),
            _ => store.watch(key, watcher).await,
        }
    }
}

/// S10: who only listens looks again whenever a release may have been missed.
pub async fn a_listener_subscribes_anew_and_says_that_it_may_have_missed_something<F: Fixture>(
    world: World<F>,
) {
    let a = world.locker().await;
    let hints = BrokenHints::default();
    let connect = Twisted::connect(world.process(), hints.clone());
    let b = world.locker_over(connect).await;
    let guard = world.hold(&a, "k").await;
    let mut releases = b.on_release("k").await.unwrap();
    let began = world.now();
    let key = Some(Key::new("k").unwrap());
    assert_eq!(world.during(releases.next()).await, key, "it was rebuilt");
    assert_eq!(hints.0.load(Ordering::Relaxed), 1);
    assert_eq!(world.during(releases.next()).await, key, "it was renewed");
    assert_eq!(hints.0.load(Ordering::Relaxed), 3);
    let took = world.now().since(began);
    assert!(took >= world.timing().retry_after * 2, "no pause: {took:?}");
    let releasing = async {
        world.timing_sleep(world.timing().retry_after).await;
        guard.release().await.unwrap();
    };
    let both = async { tokio::join!(releases.next(), releasing) };
    let (heard, ()) = world.during(both).await;
    assert_eq!(heard, key, "it was released");
}

/// L3, L8: a stream of releases keeps no locker, and does not outlive it.
pub async fn a_listener_ends_with_its_locker<F: Fixture>(world: World<F>) {
    let locker = world.locker().await;
    let mut releases = locker.on_release("k").await.unwrap();
    drop(locker);
    let limit = world.timing().liveness_ttl;
    for _ in 0..2 {
        let ended = async {
            tokio::select! {
                heard = releases.next() => heard,
                () = world.timing_sleep(limit) => panic!("it goes on"),
            }
        };
        assert_eq!(world.during(ended).await, None);
    }
}

/// A store that has no hints to give, as Postgres behind a transaction pooler.
#[derive(Debug, Clone)]
struct NoHints;

#[async_trait]
impl Twist for NoHints {
    fn limits(&self, store: &dyn Backend) -> Limits {
        Limits {
            hints: false,
            ..store.limits()
        }
    }

    async fn watch(
        &self,
        _store: &dyn Backend,
        _key: &Key,
        _watcher: &Watcher,
    ) -> Result<HintStream, BackendError> {
        Ok(Box::pin(futures_util::stream::pending()))
    }
}

/// What the stream says within this time: `None` if it says nothing.
async fn heard<F: Fixture>(
    world: &World<F>,
    releases: &mut Releases,
    limit: Duration,
) -> Option<Option<Key>> {
    let waited = async {
        tokio::select! {
            heard = releases.next() => Some(heard),
            () = world.timing_sleep(limit) => None,
        }
    };
    world.during(waited).await
}

/// PgIpLock: `onRelease`, on a store that tells nobody of a release.
pub async fn a_release_is_seen_where_the_store_gives_no_hints<F: Fixture>(world: World<F>) {
    let a = world.locker().await;
    let b = world
        .locker_over(Twisted::connect(world.process(), NoHints))
        .await;
    let key = Some(Key::new("k").unwrap());
    let (soon, quiet) = (READ_EVERY * 4, READ_EVERY * 3);
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let first = world.hold_with(&a, "k", options.clone()).await;
    let mut releases = world.during(b.on_release("k")).await.unwrap();
    let said = heard(&world, &mut releases, quiet).await;
    assert_eq!(said, None, "nobody has released it");
    // It has changed hands before anybody looked.
    world.during(first.release()).await.unwrap();
    let second = world.hold_with(&a, "k", options).await;
    let said = heard(&world, &mut releases, soon).await;
    assert_eq!(said, Some(key.clone()), "it was released in between");
    let said = heard(&world, &mut releases, quiet).await;
    assert_eq!(said, None, "one release is told once");
    world.during(second.release()).await.unwrap();
    let said = heard(&world, &mut releases, soon).await;
    assert_eq!(said, Some(key), "it is free");
    let said = heard(&world, &mut releases, quiet).await;
    assert_eq!(said, None, "a free lock is not released");
    let _third = world.hold(&a, "k").await;
    let said = heard(&world, &mut releases, quiet).await;
    assert_eq!(said, None, "nor when it is taken");
}

/// An outage is no release: nobody is told to look for what cannot be seen. What was released in it
/// is told after it.
pub async fn a_read_that_fails_is_no_release_and_hides_none<F: Fixture>(world: World<F>) {
    let a = world.locker().await;
    let faulty = Faulty::new();
    let b = world
        .locker_over(faulty.around(Twisted::connect(world.process(), NoHints)))
        .await;
    let guard = world.hold(&a, "k").await;
    let mut releases = world.during(b.on_release("k")).await.unwrap();
    faulty.inject(Scope::all().of(Method::ReadLock), Fault::Refuse);
    world.during(guard.release()).await.unwrap();
    let said = heard(&world, &mut releases, READ_EVERY * 4).await;
    assert_eq!(said, None, "nothing could be seen");
    let asked = faulty.struck();
    assert!((1..=4).contains(&asked), "it was read {asked} times");
    faulty.heal();
    let said = heard(&world, &mut releases, READ_EVERY * 4).await;
    assert_eq!(said, Some(Some(Key::new("k").unwrap())));
}
