//! What a behaviour holds: lockers over one store, and time that passes.

use crate::fixture::{Exceptions, Fixture, Time};
use crate::scaled;
use crate::wrap::{Counted, Faulty};
use distributed_locker::{
    AcquireOptions, Acquired, Backend, BootClock, Clock, Connect, HeartbeatPolicy, Instant,
    LockGuard, Locker, LockerBuilder, Timing, pass,
};
use locker_core::backend::Side;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Lockers over one store in a fresh namespace, and time that passes.
#[derive(Debug)]
pub struct World<F> {
    fixture: F,
    timing: Timing,
    time: Time,
    kept: Mutex<Vec<Arc<dyn Backend>>>,
}

impl<F: Fixture> World<F> {
    /// An empty namespace, and times that are scaled to the store: T is ten of its units. Where
    /// TTLs are coarse, a unit is long because of that and not because requests are slow: then T is
    /// the least that the store keeps.
    pub async fn open() -> Self {
        let fixture = match F::open().await {
            Ok(fixture) => fixture,
            Err(missing) => panic!("{missing}"),
        };
        let limits = match fixture.process().connect(Side::Caller).await {
            Ok(store) => store.limits(),
            Err(error) => panic!("the store cannot be opened: {error:?}"),
        };
        let unit = if limits.ttl_granularity * 10 > fixture.unit() {
            limits.least_ttl / 10
        } else {
            fixture.unit()
        };
        let timing = scaled(unit * 10);
        let time = fixture.time();
        Self {
            fixture,
            timing,
            time,
            kept: Mutex::default(),
        }
    }

    /// The durations of every locker here.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// A locker of another process.
    pub async fn locker(&self) -> Locker {
        self.locker_over(self.fixture.process()).await
    }

    /// A locker of another process, whose store can be made to fail.
    pub async fn faulty_locker(&self) -> (Locker, Faulty) {
        let faulty = Faulty::new();
        (
            self.locker_over(faulty.around(self.fixture.process()))
                .await,
            faulty,
        )
    }

    /// A locker of another process, whose requests are counted.
    pub async fn counted_locker(&self) -> (Locker, Counted) {
        let counted = Counted::new();
        (
            self.locker_over(counted.around(self.fixture.process()))
                .await,
            counted,
        )
    }

    /// A locker over this connection.
    pub async fn locker_over(&self, connect: Arc<dyn Connect>) -> Locker {
        self.during(self.builder(connect).start())
            .await
            .expect("the locker starts")
    }

    /// A locker over this connection, before it starts.
    pub(crate) fn builder(&self, connect: Arc<dyn Connect>) -> LockerBuilder {
        let builder = Locker::builder(connect).timing(self.timing);
        match &self.time {
            Time::Virtual(clock) => builder.clock(Arc::clone(clock)),
            Time::Real => builder,
        }
    }

    /// Sleeps on the clock of the lockers, inside [`World::during`].
    pub(crate) async fn sleep(&self, duration: Duration) {
        self.timing_sleep(duration).await;
    }

    /// The bare store, as another process.
    pub async fn store(&self) -> Arc<dyn Backend> {
        self.fixture
            .process()
            .connect(Side::Caller)
            .await
            .expect("the store can be opened")
    }

    /// A connection of another process.
    pub fn process(&self) -> Arc<dyn Connect> {
        self.fixture.process()
    }

    /// The store's choices.
    pub fn exceptions(&self) -> Exceptions {
        self.fixture.exceptions()
    }

    /// The clock of all lockers here.
    pub fn now(&self) -> Instant {
        match &self.time {
            Time::Virtual(clock) => clock.now(),
            Time::Real => BootClock::new().now(),
        }
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        match &self.time {
            Time::Virtual(clock) => pass(clock, time).await,
            Time::Real => tokio::time::sleep(time).await,
        }
    }

    /// Lets time pass until the future is done.
    pub async fn during<T>(&self, future: impl Future<Output = T>) -> T {
        match &self.time {
            Time::Real => future.await,
            Time::Virtual(clock) => {
                let step = self.timing.retry_after / 4;
                let flow = async {
                    loop {
                        pass(clock, step).await;
                    }
                };
                tokio::select! {
                    biased;
                    output = future => output,
                    () = flow => unreachable!("time flows for ever"),
                }
            }
        }
    }

    /// Whether time passes by itself.
    pub fn is_virtual(&self) -> bool {
        matches!(self.time, Time::Virtual(_))
    }

    /// Keeps something of another process until the end.
    pub(super) fn keep(&self, store: Arc<dyn Backend>) {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(store);
    }

    /// Waits until the condition holds, and answers how long that took.
    pub async fn until(
        &self,
        limit: Duration,
        what: &str,
        mut condition: impl AsyncFnMut() -> bool,
    ) -> Duration {
        let began = self.now();
        let step = (self.timing.retry_after / 5).max(Duration::from_millis(1));
        loop {
            if self.during(condition()).await {
                return self.now().since(began);
            }
            let waited = self.now().since(began);
            assert!(waited <= limit, "waited {waited:?} in vain: {what}");
            self.pass(step).await;
        }
    }

    /// A held lock.
    pub async fn hold(&self, locker: &Locker, key: &str) -> LockGuard {
        self.hold_with(locker, key, AcquireOptions::new()).await
    }

    /// A held lock.
    pub async fn hold_with(
        &self,
        locker: &Locker,
        key: &str,
        options: AcquireOptions,
    ) -> LockGuard {
        match self.during(locker.acquire(key, options)).await {
            Ok(Acquired::Guard(guard)) => guard,
            other => panic!("{key} should be granted, but: {other:?}"),
        }
    }

    /// So many held locks, `k0` and so on, whose owners need not beat.
    pub async fn hold_many(&self, locker: &Locker, locks: usize) -> Vec<LockGuard> {
        let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
        let mut guards = Vec::new();
        for n in 0..locks {
            let key = format!("k{n}");
            guards.push(self.hold_with(locker, &key, options.clone()).await);
        }
        guards
    }

    /// Whether the lock can be acquired now. If so it is given back.
    pub async fn is_free(&self, locker: &Locker, key: &str) -> bool {
        match self
            .during(locker.acquire(key, AcquireOptions::new()))
            .await
        {
            Ok(Acquired::Guard(guard)) => {
                self.during(guard.release())
                    .await
                    .expect("what was just acquired is released");
                true
            }
            Ok(Acquired::SomeoneElseHoldsLock(_)) => false,
            Err(error) => panic!("asking for {key} failed: {error:?}"),
        }
    }

    /// Whether the store has a record of the lock, be it anybody's.
    pub async fn has_record(&self, key: &str) -> bool {
        let store = self.store().await;
        let key = key.try_into().expect("a key");
        store
            .read_lock(&key)
            .await
            .expect("the store answers")
            .value
            .is_some()
    }
}
