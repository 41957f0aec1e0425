//! What the server is asked by a locker, request by request, as the server itself counts it.
// Tests may unwrap, also in what they share.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    LONG, born_for, claim, connect, held, liveness, owner, process_key, raw, server, store,
};
use distributed_locker::{
    AcquireOptions, Acquired, HeartbeatPolicy, LockGuard, Locker, Timing, Wait,
};
use locker_core::backend::{Claimed, Liveness};
use locker_testkit::QUIET;
use locker_testkit::servers::etcd::Server;
use locker_testkit::wrap::{Counted, Method};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After how long something that must happen has not.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server can be asked: the service, and the method. The last two are streams, of which the
/// messages count.
const METHODS: [(&str, &str); 8] = [
    ("KV", "Txn"),
    ("KV", "Range"),
    ("KV", "Put"),
    ("KV", "DeleteRange"),
    ("Lease", "LeaseGrant"),
    ("Lease", "LeaseRevoke"),
    ("Lease", "LeaseKeepAlive"),
    ("Watch", "Watch"),
];

/// How often a server was asked for what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Asked(BTreeMap<&'static str, u64>);

impl Asked {
    fn of(expected: &[(&'static str, u64)]) -> Self {
        Self(expected.iter().copied().collect())
    }

    fn count(&self, method: &str) -> u64 {
        self.0.get(method).copied().unwrap_or(0)
    }
}

/// The server's own account of what it is asked.
struct Account<'s> {
    server: &'s Server,
    before: Asked,
}

impl<'s> Account<'s> {
    fn of(server: &'s Server) -> Self {
        let before = read(server);
        Self { server, before }
    }

    /// Everything since this account was opened.
    fn asked(&self) -> Asked {
        let now = read(self.server).0.into_iter();
        let since = now.map(|(method, count)| (method, count - self.before.count(method)));
        Asked(since.filter(|(_, count)| *count > 0).collect())
    }
}

fn read(server: &Server) -> Asked {
    let count = |&(service, method): &(&str, &'static str)| {
        let unary = !["LeaseKeepAlive", "Watch"].contains(&method);
        let (metric, kind) = if unary {
            ("grpc_server_started_total", "unary")
        } else {
            ("grpc_server_msg_received_total", "bidi_stream")
        };
        let name = format!(
            "{metric}{{grpc_method=\"{method}\",grpc_service=\"etcdserverpb.{service}\",\
             grpc_type=\"{kind}\"}}"
        );
        (
            method,
            server.member().metric(&name).unwrap().parse().unwrap(),
        )
    };
    Asked(METHODS.iter().map(count).collect())
}

async fn locker(server: &Server, timing: Timing) -> Locker {
    let builder = Locker::builder(Arc::new(store(server))).timing(timing);
    builder.start().await.unwrap()
}

/// The locker's connections are open, and the newest base is known to it.
async fn warm(locker: &Locker) {
    acquire(locker, "warm").await.release().await.unwrap();
}

async fn acquire(locker: &Locker, key: &str) -> LockGuard {
    let options = AcquireOptions::new().wait(Wait::Forever);
    locker.acquire(key, options).await.unwrap().guard().unwrap()
}

/// L7: and no lease is granted.
#[tokio::test]
async fn a_free_lock_is_one_transaction_to_acquire_and_one_to_release() {
    let server = server();
    let locker = locker(&server, QUIET).await;
    warm(&locker).await;
    for round in 0..20 {
        let key = format!("k{}", round % 5);
        let account = Account::of(&server);
        let acquired = locker.acquire(&*key, AcquireOptions::new()).await.unwrap();
        let guard = acquired.guard().unwrap();
        assert_eq!(account.asked(), Asked::of(&[("Txn", 1)]));
        let account = Account::of(&server);
        guard.release().await.unwrap();
        assert_eq!(account.asked(), Asked::of(&[("Txn", 1)]));
    }
}

#[tokio::test]
async fn a_contended_try_is_one_transaction() {
    let server = server();
    let (holder, other) = (locker(&server, QUIET).await, locker(&server, QUIET).await);
    warm(&holder).await;
    warm(&other).await;
    let guard = acquire(&holder, "k").await;
    let account = Account::of(&server);
    let refused = other.acquire("k", AcquireOptions::new()).await.unwrap();
    assert!(matches!(refused, Acquired::SomeoneElseHoldsLock(_)));
    assert_eq!(account.asked(), Asked::of(&[("Txn", 1)]));
    drop(guard);
}

/// A lock goes with the lease of its process, so that of the dead is as any free one.
#[tokio::test]
async fn a_lock_of_the_dead_is_one_transaction() {
    let server = server();
    let taker = locker(&server, QUIET).await;
    warm(&taker).await;
    let backend = connect(&store(&server)).await;
    let dead = born_for(&backend, 1, LONG).await;
    let claimed = backend.try_create(&claim(&owner("k", &dead, 1))).await;
    assert!(matches!(claimed.unwrap().value, Claimed::Granted(_)));
    backend.retire_process(&dead).await.unwrap();
    let account = Account::of(&server);
    let free = taker.acquire("k", AcquireOptions::new()).await.unwrap();
    let _guard = free.guard().unwrap();
    assert_eq!(account.asked(), Asked::of(&[("Txn", 1)]));
}

/// Only where somebody has deleted the record of a process by hand, and left its locks, there is
/// something to take over.
#[tokio::test]
async fn a_refusal_is_one_transaction_a_judgement_one_read_and_a_take_over_one_transaction() {
    let server = server();
    let backend = connect(&store(&server)).await;
    let dead = born_for(&backend, 1, LONG).await;
    let taker = born_for(&backend, 2, LONG).await;
    let claimed = backend.try_create(&claim(&owner("k", &dead, 1))).await;
    assert!(matches!(claimed.unwrap().value, Claimed::Granted(_)));
    let mut raw = raw(&server).await;
    raw.delete(process_key(&dead), None).await.unwrap();

    let claim = claim(&owner("k", &taker, 1));
    let account = Account::of(&server);
    let refused = held(backend.try_create(&claim).await.unwrap().value);
    assert_eq!(account.asked(), Asked::of(&[("Txn", 1)]));
    let account = Account::of(&server);
    assert_eq!(liveness(&backend, &dead).await, Liveness::Dead);
    assert_eq!(account.asked(), Asked::of(&[("Range", 1)]));
    let account = Account::of(&server);
    let robbed = backend.take_over(&claim, &refused.observed).await.unwrap();
    assert!(matches!(robbed.value, Claimed::Granted(_)));
    assert_eq!(account.asked(), Asked::of(&[("Txn", 1)]));
}

/// F27: one release of a lock for which sixteen wait in four processes, and what they all cost until
/// the last of them is through.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_release_under_sixteen_waiters_is_at_most_two_attempts() {
    let server = server();
    let counted = Counted::new();
    let mut lockers = Vec::new();
    for _ in 0..4 {
        let store = counted.around(Arc::new(store(&server)));
        let locker = Locker::builder(store).timing(QUIET).start().await.unwrap();
        warm(&locker).await;
        lockers.push(locker);
    }
    let guard = acquire(&lockers[0], "k").await;
    let account = Account::of(&server);
    let waiters: Vec<_> = (0..16)
        .map(|waiter| {
            let locker = lockers[waiter % 4].clone();
            tokio::spawn(async move { acquire(&locker, "k").await.release().await.unwrap() })
        })
        .collect();
    // The head of each process has tried, opened its watches, enrolled, and tried again.
    let limit = Instant::now() + PATIENCE;
    let all_wait = || {
        let asked = account.asked();
        asked.count("Txn") >= 12 && asked.count("Watch") >= 8
    };
    while !all_wait() {
        assert!(Instant::now() < limit, "{:?}", account.asked());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(account.asked(), Asked::of(&[("Txn", 12), ("Watch", 8)]));
    let (account, before) = (Account::of(&server), counted.counts());
    guard.release().await.unwrap();
    for waiter in waiters {
        let through = tokio::time::timeout(PATIENCE, waiter).await;
        through.unwrap().unwrap();
    }
    let (asked, calls) = (account.asked(), counted.counts().since(&before));
    println!("17 releases and 16 grants: {asked:?}, {calls:?}");
    assert_eq!(calls.of(Method::Release), 17, "{calls:?}");
    let attempts = calls.of(Method::TryCreate) + calls.of(Method::TakeOver);
    assert!(attempts <= 2 * 17, "{attempts} attempts: {calls:?}");
    // Who was served enrols anew for the next of its process.
    assert!(calls.of(Method::Watch) <= 16, "{calls:?}");
    // Who is not the first in the line looks before it tries: three processes at most.
    assert!(asked.count("Range") <= 17 * 3, "{asked:?}");
    // Beside releases and attempts: the enrolments, and what withdraws them. Nobody looks for its
    // place.
    assert!(asked.count("Txn") <= 17 + attempts + 16 + 16, "{asked:?}");
    // Two watches are opened for each wait, and two are cancelled.
    assert!(asked.count("Watch") <= 4 * 16, "{asked:?}");
    for never in ["Put", "DeleteRange", "LeaseGrant", "LeaseRevoke"] {
        assert_eq!(asked.count(never), 0, "{asked:?}");
    }
}

/// L7, at times that are a thirtieth of the default ones: two seconds stand for a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_locks_are_looked_at_in_batches_and_cost_nothing_else() {
    const LOCKS: u64 = 10_000;
    const TASKS: u64 = 64;
    let server = server();
    let timing = Timing {
        extend_every: Duration::from_secs(4),
        recheck_every: Duration::from_secs(2),
        ..QUIET
    };
    let locker = locker(&server, timing).await;
    let acquiring: Vec<_> = (0..TASKS)
        .map(|task| {
            let locker = locker.clone();
            tokio::spawn(async move {
                let mut guards = Vec::new();
                for lock in (task..LOCKS).step_by(64) {
                    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
                    let acquired = locker.acquire(format!("k{lock}"), options).await;
                    guards.push(acquired.unwrap().guard().unwrap());
                }
                guards
            })
        })
        .collect();
    let mut guards = Vec::new();
    for task in acquiring {
        guards.extend(task.await.unwrap());
    }
    // The connection of the upkeep is opened by the first round, which is not counted.
    let round = LOCKS.div_ceil(60);
    let account = Account::of(&server);
    let limit = Instant::now() + PATIENCE;
    while account.asked().count("Txn") < round {
        assert!(Instant::now() < limit, "{:?}", account.asked());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let account = Account::of(&server);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let asked = account.asked();
    let took = began.elapsed();
    println!("{LOCKS} idle locks for {took:?}: {asked:?}");
    // A check every two seconds and an extension every four, each in its batches, and a round that is
    // cut at either end.
    let rounds = 2 * (took.as_secs() / 4 + took.as_secs() / 2 + 2);
    assert!(asked.count("Txn") <= rounds * round, "{asked:?}");
    assert!(asked.count("Txn") >= 2 * round, "{asked:?}");
    assert_eq!(asked.0.len(), 1, "transactions and nothing else: {asked:?}");
    assert!(guards.iter().all(LockGuard::is_valid));
}
