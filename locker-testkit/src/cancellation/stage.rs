//! What one run of the sweep holds: a locker that gets into trouble, another one beside it, and a
//! look at everything that could be left behind.

use crate::behaviour::World;
use crate::fixture::Fixture;
use crate::wrap::{Around, Call, Faulty, Request, Twist, Twisted, WrappedConnect};
use async_trait::async_trait;
use distributed_locker::{
    AcquireOptions, Acquired, Backend, BackendError, Connect, HeartbeatPolicy, Key, LockGuard,
    Locker, OwnerHash, ReadError, Wait,
};
use futures_util::StreamExt;
use futures_util::future::join_all;
use locker_core::backend::{HintStream, Watcher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;

/// The lock that every subject is about.
pub(super) const KEY: &str = "k";

/// The host of a process that died before the run; its lock is for whoever comes.
pub(super) const GONE: &str = "gone";

/// More requests than a store has connections for its callers.
const AT_ONCE: usize = 16;

/// What one run of the sweep holds.
#[derive(Debug)]
pub struct Stage<F> {
    world: World<F>,
    locker: Option<Locker>,
    other: Locker,
    store: Arc<dyn Backend>,
    faulty: Faulty,
    enrolled: Enrolled,
    numbers: AtomicUsize,
    tasks_at_rest: usize,
}

/// Counts the subscriptions that are open. It changes nothing.
#[derive(Debug, Clone, Default)]
struct Enrolled(Arc<AtomicUsize>);

/// Stands between two polls before each request and after it: so a future can be dropped when its
/// request is not sent yet, and when it was executed and the answer has not been seen.
#[derive(Debug, Clone)]
struct Slow;

impl Around for Slow {
    async fn around<T: Send + 'static>(
        &self,
        _call: Call,
        request: Request<T>,
    ) -> Result<T, BackendError> {
        tokio::task::yield_now().await;
        let answer = request.await;
        tokio::task::yield_now().await;
        answer
    }
}

fn slow(store: Arc<dyn Connect>) -> Arc<dyn Connect> {
    Arc::new(WrappedConnect::new(store, Slow))
}

/// One subscription.
struct Enrolment(Arc<AtomicUsize>);

impl Drop for Enrolment {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[async_trait]
impl Twist for Enrolled {
    async fn watch(
        &self,
        store: &dyn Backend,
        key: &Key,
        watcher: &Watcher,
    ) -> Result<HintStream, BackendError> {
        let hints = store.watch(key, watcher).await?;
        self.0.fetch_add(1, Ordering::AcqRel);
        let enrolment = Enrolment(Arc::clone(&self.0));
        Ok(Box::pin(hints.inspect(move |_| {
            let _open = &enrolment;
        })))
    }
}

impl<F: Fixture> Stage<F> {
    pub(super) async fn open() -> Self {
        let world = World::open().await;
        let (faulty, enrolled) = (Faulty::new(), Enrolled::default());
        let store = Twisted::connect(world.process(), enrolled.clone());
        let locker = world.locker_over(faulty.around(slow(store))).await;
        let other = world.locker().await;
        let store = world.store().await;
        let mut stage = Self {
            world,
            locker: Some(locker),
            other,
            store,
            faulty,
            enrolled,
            numbers: AtomicUsize::new(0),
            tasks_at_rest: 0,
        };
        // Both have asked and listened once, so everything is open that stays open.
        for locker in [stage.locker(), stage.other()] {
            drop(stage.hold(&locker).await);
            drop(stage.world.during(locker.on_release(KEY)).await);
        }
        stage.rest().await;
        stage
    }

    pub(super) fn world(&self) -> &World<F> {
        &self.world
    }

    /// The locker whose futures are dropped.
    pub(super) fn locker(&self) -> Locker {
        self.locker.clone().expect("the stage keeps its locker")
    }

    /// The bare store.
    pub(super) fn store(&self) -> &Arc<dyn Backend> {
        &self.store
    }

    /// A number that this stage has not used yet.
    pub(super) fn next(&self) -> u128 {
        self.numbers.fetch_add(1, Ordering::Relaxed) as u128
    }

    /// Another process.
    pub(super) fn other(&self) -> Locker {
        self.other.clone()
    }

    pub(super) fn faulty(&self) -> &Faulty {
        &self.faulty
    }

    /// A connection for a subject of its own.
    pub(super) fn connect(&self) -> Arc<dyn Connect> {
        self.faulty.around(slow(self.world.process()))
    }

    /// A lock of the other process, on [`KEY`].
    pub(super) async fn held_by_other(&self) -> LockGuard {
        self.hold(&self.other).await
    }

    /// A lock of the locker itself, on [`KEY`].
    pub(super) async fn held(&self) -> LockGuard {
        self.hold(&self.locker()).await
    }

    /// The lock, however often a busy machine refuses it.
    async fn hold(&self, locker: &Locker) -> LockGuard {
        let end = self.world.now() + self.world.timing().start_timeout;
        loop {
            let options = self.patient().heartbeat(HeartbeatPolicy::Automatic);
            match self.world.during(locker.acquire(KEY, options)).await {
                Ok(Acquired::Guard(guard)) => return guard,
                other => assert!(self.world.now() < end, "no lock to begin with: {other:?}"),
            }
        }
    }

    /// Options of somebody who waits for long enough.
    pub(super) fn patient(&self) -> AcquireOptions {
        AcquireOptions::new().wait(Wait::For(self.world.timing().liveness_ttl * 2))
    }

    /// How long a helper waits before it lets the lock go.
    pub(super) fn a_while(&self) -> Duration {
        self.world.timing().retry_after * 4
    }

    pub(super) async fn pass_a_moment(&self) {
        self.world.pass(self.world.timing().retry_after * 2).await;
    }

    /// Runs a future while time passes and the helper helps; at most for three liveness TTLs.
    pub(super) async fn within_limit<T>(
        &self,
        future: impl Future<Output = super::Cut<T>>,
        helping: impl Future<Output = ()>,
    ) -> super::Cut<T> {
        let limit = self.world.timing().liveness_ttl * 3;
        let running = async {
            tokio::select! {
                biased;
                outcome = future => outcome,
                () = helping => super::Cut::Dropped,
                () = self.world.sleep(limit) => super::Cut::Dropped,
            }
        };
        self.world.during(running).await
    }

    /// How many tasks the runtime of the callers has.
    fn tasks() -> usize {
        Handle::current().metrics().num_alive_tasks()
    }

    /// Delivers what was held back.
    pub(super) async fn deliver(&self) {
        for request in self.faulty.take_held() {
            self.world.during(request.deliver()).await;
        }
    }

    /// Whose record stands under the key.
    pub(super) async fn owner_of(&self, key: &Key) -> Option<OwnerHash> {
        let held = self
            .store
            .read_lock(key)
            .await
            .expect("the store answers")
            .value;
        held.map(|held| held.data.owner)
    }

    /// What is left behind when everything had its time.
    pub(super) async fn leftovers(&self) -> Vec<String> {
        let timing = self.world.timing();
        // What may still land is bounded by its `not_after`, and looked for at every recheck.
        let limit = timing.not_after_patience()
            + timing.recheck_every * 3
            + timing.request_timeout * 4
            + Duration::from_secs(2);
        let end = self.world.now() + limit;
        loop {
            let left = self.left().await;
            if left.is_empty() || self.world.now() > end {
                return left;
            }
            self.pass_a_moment().await;
        }
    }

    async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let keys = self.locker.as_ref().map(Locker::keys).unwrap_or_default();
        if !keys.is_empty() {
            left.push(format!("the locker still knows {keys:?}"));
        }
        let key = Key::new(KEY).expect("a key");
        if let Some(owner) = self.owner_of(&key).await
            && owner.process().host().as_str() != GONE
        {
            left.push(format!("the store has a record of {owner}"));
        }
        let enrolled = self.enrolled.0.load(Ordering::Acquire);
        if enrolled != 0 {
            left.push(format!("{enrolled} subscriptions are open"));
        }
        if left.is_empty() {
            let asked = self.other.acquire(KEY, AcquireOptions::new());
            match self.world.during(asked).await {
                Ok(Acquired::Guard(guard)) => {
                    let released = self.world.during(guard.release()).await;
                    if let Err(error) = released {
                        left.push(format!("another process had it and lost it: {error}"));
                    }
                }
                other => left.push(format!("another process does not get it: {other:?}")),
            }
        }
        left
    }

    /// Tasks beyond those that the two lockers have at rest.
    pub(super) async fn leaked_tasks(&self) -> Option<String> {
        for _ in 0..50 {
            if Self::tasks() <= self.tasks_at_rest {
                return None;
            }
            self.pass_a_moment().await;
        }
        let (before, now) = (self.tasks_at_rest, Self::tasks());
        Some(format!("{before} tasks before, {now} afterwards"))
    }

    /// Waits until the number of tasks does not change any more. Before each look every connection
    /// is used: one that a slow answer has closed is opened again only then, and it has tasks. So does
    /// one that a store opens when requests coincide, as they may at any moment of a run. An answer that
    /// comes too late, because the machine stood still, is no rest; one that never comes is a failure.
    async fn rest(&mut self) {
        let (mut quiet_looks, mut unanswered) = (0, 0);
        while quiet_looks < 5 {
            let unanswered_before = unanswered;
            for locker in [self.locker(), self.other()] {
                drop(self.hold(&locker).await);
                let looks = (0..AT_ONCE).map(|_| locker.read_lock_data(KEY));
                for look in self.world.during(join_all(looks)).await {
                    match look {
                        Err(ReadError::Store(late)) if late.kind().is_transient() => {
                            unanswered += 1;
                            assert!(unanswered < 100, "the store does not answer: {late}");
                        }
                        look => drop(look.expect("the store answers")),
                    }
                }
                // Nor does it listen before somebody waits.
                drop(self.world.during(locker.on_release(KEY)).await);
            }
            let tasks = Self::tasks();
            quiet_looks = if unanswered == unanswered_before && tasks == self.tasks_at_rest {
                quiet_looks + 1
            } else {
                0
            };
            self.tasks_at_rest = tasks;
            self.pass_a_moment().await;
        }
    }
}
