//! What the server is asked by a locker, statement by statement, as the server itself counts them.

#![allow(clippy::unwrap_used, reason = "tests")]

use distributed_locker::{
    AcquireOptions, Acquired, HeartbeatPolicy, LockGuard, Locker, Timing, Wait,
};
use locker_core::backend::{Claim, Claimed, Side};
use locker_core::{Connect, Host, Key, OwnerHash, ProcessHash, StoreTime};
use locker_postgres::Postgres;
use locker_testkit::QUIET;
use locker_testkit::servers::postgres::{Server, Statements};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// After how long something that must happen has not.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that counts, with the locker's schema.
struct Counting {
    server: Server,
    /// What it had counted when it was last asked.
    seen: Mutex<Statements>,
}

/// How often each statement was sent.
type Calls = BTreeMap<String, u64>;

impl Counting {
    async fn start() -> Self {
        let server = Server::start_counting(&["fsync = off"]);
        let server = server.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
        let seen = Mutex::default();
        let counting = Self { server, seen };
        counting.store().migrate().await.unwrap();
        counting
    }

    fn store(&self) -> Postgres {
        Postgres::from_url(self.server.url()).unwrap()
    }

    async fn locker(&self, timing: Timing) -> Locker {
        let builder = Locker::builder(Arc::new(self.store())).timing(timing);
        let locker = builder.start().await.unwrap();
        // Connections are open, and their statements prepared.
        acquire(&locker, "warm").await.release().await.unwrap();
        locker
    }

    /// The calls since it was last asked. Everything that a client sends is counted, but for what it
    /// asks when it opens a connection.
    fn calls(&self) -> Calls {
        let mut seen = self.seen.lock().unwrap();
        let new = seen.look_again(&self.server).unwrap();
        let calls = new.calls();
        calls.map(|(name, n)| (name.to_owned(), n)).collect()
    }
}

fn calls(expected: &[(&str, u64)]) -> Calls {
    let calls = expected.iter();
    calls.map(|&(name, n)| (name.to_owned(), n)).collect()
}

fn of(calls: &Calls, name: &str) -> u64 {
    calls.get(name).copied().unwrap_or(0)
}

async fn acquire(locker: &Locker, key: &str) -> LockGuard {
    let options = AcquireOptions::new().wait(Wait::Forever);
    locker.acquire(key, options).await.unwrap().guard().unwrap()
}

#[tokio::test]
async fn a_free_lock_is_one_statement_to_acquire_and_one_to_release() {
    let server = Counting::start().await;
    let locker = server.locker(QUIET).await;
    server.calls();
    for round in 0..10 {
        let key = format!("k{}", round % 5);
        let acquired = locker.acquire(&*key, AcquireOptions::new()).await.unwrap();
        let guard = acquired.guard().unwrap();
        assert_eq!(server.calls(), calls(&[("try_create", 1)]));
        guard.release().await.unwrap();
        assert_eq!(server.calls(), calls(&[("release", 1)]));
    }
}

#[tokio::test]
async fn a_contended_try_is_one_statement() {
    let server = Counting::start().await;
    let (holder, other) = (server.locker(QUIET).await, server.locker(QUIET).await);
    let guard = acquire(&holder, "k").await;
    server.calls();
    let refused = other.acquire("k", AcquireOptions::new()).await.unwrap();
    assert!(matches!(refused, Acquired::SomeoneElseHoldsLock(_)));
    assert_eq!(server.calls(), calls(&[("try_create", 1)]));
    drop(guard);
}

#[tokio::test]
async fn a_lock_of_a_dead_process_is_two_statements() {
    let server = Counting::start().await;
    let taker = server.locker(QUIET).await;
    let backend = server.store().connect(Side::Caller).await.unwrap();
    let dead = ProcessHash::new(&Host::new("h").unwrap(), 1, 1);
    let ttl = Duration::from_secs(3600);
    backend.create_process(&dead, ttl).await.unwrap();
    let claim = Claim {
        owner: OwnerHash::new(&Key::new("k").unwrap(), &dead, 1, None),
        ttl,
        not_after: StoreTime::from_micros(u64::MAX),
    };
    let claimed = backend.try_create(&claim).await.unwrap().value;
    assert!(matches!(claimed, Claimed::Granted(_)));
    backend.retire_process(&dead).await.unwrap();
    server.calls();
    let robbed = taker.acquire("k", AcquireOptions::new()).await.unwrap();
    let guard = robbed.guard().unwrap();
    let expected = calls(&[("try_create", 1), ("take_over", 1)]);
    assert_eq!(server.calls(), expected);
    drop(guard);
}

/// F27: a release costs at most two attempts at the store, and one statement to wake everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_under_sixteen_waiters_is_at_most_two_attempts() {
    let server = Counting::start().await;
    let mut lockers = Vec::new();
    for _ in 0..4 {
        lockers.push(server.locker(QUIET).await);
    }
    let guard = acquire(&lockers[0], "k").await;
    server.calls();
    let waiters: Vec<_> = (0..16)
        .map(|waiter| {
            let locker = lockers[waiter % 4].clone();
            tokio::spawn(async move { acquire(&locker, "k").await.release().await.unwrap() })
        })
        .collect();
    // The head of each process has tried, enrolled, and tried again.
    let mut before = Calls::new();
    let limit = Instant::now() + PATIENCE;
    while of(&before, "enrol") < 4 || of(&before, "try_create") < 8 {
        assert!(Instant::now() < limit, "{before:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        for (name, number) in server.calls() {
            *before.entry(name).or_default() += number;
        }
    }
    guard.release().await.unwrap();
    for waiter in waiters {
        let waited = tokio::time::timeout(PATIENCE, waiter).await;
        waited.unwrap().unwrap();
    }
    let asked = server.calls();
    println!("16 waiters, 17 releases: {asked:?}");
    let releases = of(&asked, "release") + of(&asked, "release_and_try_create");
    assert_eq!(releases, 17, "{asked:?}");
    let attempts =
        of(&asked, "try_create") + of(&asked, "take_over") + of(&asked, "release_and_try_create");
    assert!(attempts <= 2 * 17, "{attempts} attempts: {asked:?}");
    assert!(of(&asked, "wake") <= 17, "{asked:?}");
    // Who was served enrols anew for the next of its process.
    assert!(of(&asked, "enrol") <= 16, "{asked:?}");
}

/// L7, at times that are a thirtieth of the default ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_locks_are_extended_and_checked_in_batches_of_64_and_cost_nothing_else() {
    const LOCKS: u64 = 1000;
    let server = Counting::start().await;
    let timing = Timing {
        extend_every: Duration::from_secs(2),
        recheck_every: Duration::from_millis(500),
        ..QUIET
    };
    let locker = server.locker(timing).await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let mut guards = Vec::new();
    for lock in 0..LOCKS {
        let acquired = locker.acquire(format!("k{lock}"), options.clone()).await;
        guards.push(acquired.unwrap().guard().unwrap());
    }
    server.calls();
    let held_for = Duration::from_secs(6);
    let begun = Instant::now();
    tokio::time::sleep(held_for).await;
    let asked = server.calls();
    let held_for = begun.elapsed();
    println!("{LOCKS} locks for {held_for:?}: {asked:?}");
    let per_round = LOCKS.div_ceil(64);
    for (operation, every) in [
        ("extend", timing.extend_every),
        ("standings", timing.recheck_every),
    ] {
        // A round that began before the time or ended after it is counted in parts.
        let rounds = held_for.as_millis().div_ceil(every.as_millis()) + 1;
        let statements = of(&asked, operation);
        assert!(statements >= per_round, "{operation}: {asked:?}");
        let most = u64::try_from(rounds).unwrap() * per_round;
        assert!(statements <= most, "{operation}, at most {most}: {asked:?}");
    }
    let others = asked.keys();
    let others: Vec<_> = others
        .filter(|name| !["extend", "standings"].contains(&name.as_str()))
        .collect();
    assert!(others.is_empty(), "{asked:?}");
    assert!(guards.iter().all(LockGuard::is_valid));
}
