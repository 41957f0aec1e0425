//! What a conformance case holds: its namespace, its processes, and time that passes.
//!
//! No case sleeps for a fixed time. It waits *until* something is so, within a limit; and where it
//! must show that something did not happen, it waits until a witness of the same age has died.

mod expect;
mod process;

pub use expect::{absent, granted, held, refused_as_corrupt};
pub use process::{Grant, LONG, Process};

use crate::fixture::{Exceptions, Fixture, Impossible, Planted, Time};
use futures_util::StreamExt;
use locker_core::backend::{Hint, HintStream, KeptBy, Limits, Liveness, Renewal};
use locker_core::{Clock, Host, Key, ProcessHash};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// How long a case may take before it counts as hung, in real time.
const CASE_LIMIT: Duration = Duration::from_secs(120);
/// How long a store may take beyond what it was asked for before it counts as too late.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs one case on a fresh namespace of this fixture. The tests that
/// [`conformance!`](crate::conformance) makes call nothing else.
pub fn run<F: Fixture>(case: impl AsyncFnOnce(Case)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a tokio runtime can be built");
    runtime.block_on(async {
        let fixture = match F::open().await {
            Ok(fixture) => fixture,
            Err(missing) => panic!("there is no store to test: {missing}"),
        };
        let ended = tokio::time::timeout(CASE_LIMIT, case(Case::new(Box::new(fixture)))).await;
        assert!(ended.is_ok(), "the case did not end within {CASE_LIMIT:?}");
    });
}

/// One case in its namespace.
#[derive(Debug)]
pub struct Case {
    fixture: Box<dyn Fixture>,
    started: tokio::time::Instant,
    keys: AtomicU64,
}

impl Case {
    /// A case in this namespace.
    pub fn new(fixture: Box<dyn Fixture>) -> Self {
        Self {
            fixture,
            started: tokio::time::Instant::now(),
            keys: AtomicU64::new(0),
        }
    }

    /// A process that lives for long.
    pub async fn process(&self) -> Process {
        self.process_for(LONG).await
    }

    /// Several of them.
    pub async fn processes<const N: usize>(&self) -> [Process; N] {
        let mut processes = Vec::with_capacity(N);
        for _ in 0..N {
            processes.push(self.process().await);
        }
        processes.try_into().expect("exactly N were opened")
    }

    /// A process that lives this long, unless it is renewed.
    pub async fn process_for(&self, ttl: Duration) -> Process {
        let process = self.unborn().await;
        process.be_born(ttl).await;
        process
    }

    /// A process that was never born.
    pub async fn unborn(&self) -> Process {
        self.unborn_on("conformance").await
    }

    /// A process on this host that was never born.
    pub async fn unborn_on(&self, host: &str) -> Process {
        let host = Host::new(host).expect("the case gives a valid host name");
        let hash = ProcessHash::new(&host, std::process::id(), random());
        Process::open(self.fixture.process(), hash).await
    }

    /// A key that no part of this case has used before.
    pub fn key(&self) -> Key {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        Key::new(format!("jobs/{number}")).expect("a short key is valid")
    }

    /// Several of them.
    pub fn keys<const N: usize>(&self) -> [Key; N] {
        std::array::from_fn(|_| self.key())
    }

    /// The shortest TTL that the cases use.
    pub fn unit(&self) -> Duration {
        self.fixture.unit()
    }

    /// The store's choices.
    pub fn exceptions(&self) -> Exceptions {
        self.fixture.exceptions()
    }

    /// Whether the store itself ends a lock that nobody extends. Where the Reporter does, a lock
    /// ends with its process, and a case about the lock's own TTL has nothing to look at.
    pub fn expires_locks(&self, limits: Limits) -> bool {
        limits.lock_ttl_kept_by == KeptBy::Store
    }

    /// Puts something foreign under the key. `false` when that is impossible, for a reason.
    pub async fn plant(&self, key: &Key, planted: Planted) -> bool {
        match self.fixture.plant(key, planted).await {
            Ok(()) => true,
            Err(Impossible(reason)) => {
                assert!(
                    reason.contains(' '),
                    "a fixture that cannot plant {planted:?} must say why, in a sentence; \
                     it says {reason:?}"
                );
                false
            }
        }
    }

    /// The time since the case began, as it passes for the store.
    pub fn elapsed(&self) -> Duration {
        match self.fixture.time() {
            Time::Virtual(clock) => clock.now().since(locker_core::Instant::ZERO),
            Time::Real => self.started.elapsed(),
        }
    }

    /// Lets a little time pass between two looks at something.
    pub async fn step(&self) {
        let step = self.unit() / 8;
        match self.fixture.time() {
            Time::Virtual(clock) => {
                clock.advance(step);
                tokio::task::yield_now().await;
            }
            Time::Real => tokio::time::sleep(step).await,
        }
    }

    /// Waits until `look` answers true. Fails when that takes longer than `within` and some
    /// patience. Answers when it was seen.
    pub async fn until(
        &self,
        what: &str,
        within: Duration,
        mut look: impl AsyncFnMut() -> bool,
    ) -> Duration {
        let limit = self.elapsed() + within + PATIENCE;
        loop {
            if look().await {
                return self.elapsed();
            }
            assert!(
                self.elapsed() < limit,
                "the store should have come to this within {within:?}, and did not even within \
                 {PATIENCE:?} more: {what}"
            );
            self.step().await;
        }
    }

    /// Waits until whatever was given this TTL before now, and nothing more, must be gone: a
    /// witness that is born now with the same TTL has died.
    pub async fn outlive(&self, ttl: Duration) {
        let witness = self.process_for(ttl).await;
        self.until("a process that nobody renews is dead", ttl, async || {
            witness.liveness().await == Liveness::Dead
        })
        .await;
    }

    /// The same for a process that was renewed. Where a renewal cannot prolong what was given at the
    /// birth, it is renewed as long as the witness lives.
    pub async fn outlive_renewed(&self, process: &Process, ttl: Duration) {
        let Some(reason) = self.exceptions().fixed_process_ttl else {
            return self.outlive(ttl).await;
        };
        assert!(
            reason.contains(' '),
            "an exception has a reason, in a sentence"
        );
        let witness = self.process_for(ttl).await;
        self.until("a process that nobody renews is dead", ttl, async || {
            let renewal = process.renew(ttl).await;
            assert!(
                matches!(renewal, Renewal::Renewed { .. }),
                "a process that is renewed all the time lives"
            );
            witness.liveness().await == Liveness::Dead
        })
        .await;
    }

    /// Runs `body` with a short TTL, and makes sure that the body took less than that TTL: what it
    /// answers is about unexpired records. On a machine that is too busy it runs again with a
    /// longer one, so it uses fresh keys.
    pub async fn in_time<T>(&self, mut body: impl AsyncFnMut(Duration) -> T) -> (Duration, T) {
        let mut ttl = self.unit() * 3;
        for _ in 0..5 {
            let before = self.elapsed();
            let answer = body(ttl).await;
            if self.elapsed() < before + ttl {
                return (ttl, answer);
            }
            ttl *= 2;
        }
        panic!("a handful of requests takes longer than {ttl:?}: the fixture's unit is too short");
    }

    /// Waits for the next hint that the key is free. Answers the receiver's place.
    pub async fn hint(&self, hints: &mut HintStream, what: &str) -> u32 {
        let patience = match self.fixture.time() {
            // A store without a time of its own has hinted already, or never will.
            Time::Virtual(_) => Duration::from_secs(1),
            Time::Real => PATIENCE,
        };
        loop {
            let Ok(hint) = tokio::time::timeout(patience, hints.next()).await else {
                panic!("no hint came within {patience:?}, but should have told: {what}");
            };
            match hint {
                Some(Hint::Free { place }) => return place,
                Some(Hint::Rebuilt) => {}
                None => panic!("the stream of hints ended, but should have told: {what}"),
            }
        }
    }

    /// Runs these futures on threads of their own, released at the same moment. The first that
    /// fails fails the case; what the others wait for may never come then.
    pub async fn at_once<T, F>(&self, futures: impl IntoIterator<Item = F>) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let futures: Vec<F> = futures.into_iter().collect();
        let gate = Arc::new(Barrier::new(futures.len()));
        let mut tasks = JoinSet::new();
        for (place, future) in futures.into_iter().enumerate() {
            let gate = Arc::clone(&gate);
            tasks.spawn(async move {
                gate.wait().await;
                (place, future.await)
            });
        }
        let mut answers = Vec::with_capacity(tasks.len());
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(answer) => answers.push(answer),
                Err(failed) => resume_unwind(failed.into_panic()),
            }
        }
        answers.sort_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

/// Random bits: `RandomState` draws its keys from the operating system.
fn random() -> u128 {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    (half() << 64) | half()
}
