//! What the server is asked by a locker, request by request, as the server itself tells it.

#![allow(clippy::unwrap_used, reason = "tests")]

use distributed_locker::{
    AcquireOptions, Acquired, HeartbeatPolicy, LockGuard, Locker, Timing, Wait,
};
use locker_core::backend::{Claim, Claimed, Liveness, Side};
use locker_core::{Connect, Host, Key, OwnerHash, ProcessHash, StoreTime};
use locker_redis::Redis;
use locker_testkit::QUIET;
use locker_testkit::servers::redis::{Server, Setup};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// After how long something that must happen has not.
const PATIENCE: Duration = Duration::from_secs(30);

/// The requests that the server has received, by what they ask for. A script over several locks is
/// one request, and as many members.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    requests: BTreeMap<String, u64>,
    members: BTreeMap<String, u64>,
}

impl Asked {
    /// So many requests of one member each.
    fn singly(expected: &[(&str, u64)]) -> Self {
        let counts: BTreeMap<_, _> = expected
            .iter()
            .map(|&(name, count)| (name.to_owned(), count))
            .collect();
        Self {
            requests: counts.clone(),
            members: counts,
        }
    }

    fn requests(&self, name: &str) -> u64 {
        self.requests.get(name).copied().unwrap_or(0)
    }

    fn members(&self, name: &str) -> u64 {
        self.members.get(name).copied().unwrap_or(0)
    }
}

/// The server's own account of what it is asked (MONITOR).
struct Monitor {
    lines: Receiver<String>,
    /// A connection of our own, whose words mark how far the account has come.
    marker: TcpStream,
    marks: u64,
}

const OPERATIONS: [&str; 12] = [
    "create",
    "take_over",
    "extend",
    "check",
    "release",
    "mark",
    "read",
    "wake",
    "enrol",
    "withdraw",
    "birth",
    "renew",
];

impl Monitor {
    fn of(server: &Server) -> Self {
        let marker = TcpStream::connect(server.node().address()).unwrap();
        let mut stream = TcpStream::connect(server.node().address()).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut ok = String::new();
        reader.read_line(&mut ok).unwrap();
        assert_eq!(ok, "+OK\r\n");
        let (sender, lines) = channel();
        // It ends with the server.
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            lines,
            marker,
            marks: 0,
        }
    }

    /// Everything since it was last asked.
    fn asked(&mut self) -> Asked {
        self.marks += 1;
        let mark = format!("mark-{}", self.marks);
        write!(self.marker, "ECHO {mark}\r\n").unwrap();
        let mut asked = Asked::default();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap();
            if line.contains(&format!("\"ECHO\" \"{mark}\"")) {
                return asked;
            }
            asked.count(&line);
        }
    }
}

impl Asked {
    /// A line is `TIME [DB ADDRESS] "COMMAND" "ARGUMENT"…`. What a script does is `lua`'s.
    fn count(&mut self, line: &str) {
        let Some((_, words)) = line
            .split_once("] ")
            .filter(|(who, _)| !who.ends_with("lua"))
        else {
            return;
        };
        let words: Vec<&str> = words.split('"').skip(1).step_by(2).collect();
        match words.as_slice() {
            ["EVALSHA" | "EVAL", _, arguments @ ..] => {
                let named = |word: &&str| OPERATIONS.contains(word);
                let operations: Vec<&str> = arguments.iter().copied().filter(named).collect();
                for operation in &operations {
                    *self.members.entry((*operation).to_owned()).or_default() += 1;
                }
                let request = operations.first().copied().unwrap_or("nothing known");
                *self.requests.entry(request.to_owned()).or_default() += 1;
            }
            [command, ..] => {
                *self.requests.entry((*command).to_owned()).or_default() += 1;
            }
            [] => {}
        }
    }
}

async fn locker(server: &Server, timing: Timing) -> Locker {
    let store = Redis::from_url(server.url()).unwrap();
    let builder = Locker::builder(Arc::new(store)).timing(timing);
    builder.start().await.unwrap()
}

/// The server's scripts are known, and the locker's connection for releases is open.
async fn warm(locker: &Locker) {
    acquire(locker, "warm").await.release().await.unwrap();
}

async fn acquire(locker: &Locker, key: &str) -> LockGuard {
    let options = AcquireOptions::new().wait(Wait::Forever);
    locker.acquire(key, options).await.unwrap().guard().unwrap()
}

#[tokio::test]
async fn a_free_lock_is_one_request_to_acquire_and_one_to_release() {
    let server = Server::start(&Setup::new()).unwrap();
    let locker = locker(&server, QUIET).await;
    warm(&locker).await;
    let mut monitor = Monitor::of(&server);
    for round in 0..20 {
        let key = format!("k{}", round % 5);
        let acquired = locker.acquire(&*key, AcquireOptions::new()).await.unwrap();
        let guard = acquired.guard().unwrap();
        assert_eq!(monitor.asked(), Asked::singly(&[("create", 1)]));
        guard.release().await.unwrap();
        assert_eq!(monitor.asked(), Asked::singly(&[("release", 1)]));
    }
}

#[tokio::test]
async fn a_contended_try_is_one_request() {
    let server = Server::start(&Setup::new()).unwrap();
    let (holder, other) = (locker(&server, QUIET).await, locker(&server, QUIET).await);
    warm(&holder).await;
    warm(&other).await;
    let guard = acquire(&holder, "k").await;
    let mut monitor = Monitor::of(&server);
    let refused = other.acquire("k", AcquireOptions::new()).await.unwrap();
    assert!(matches!(refused, Acquired::SomeoneElseHoldsLock(_)));
    assert_eq!(monitor.asked(), Asked::singly(&[("create", 1)]));
    drop(guard);
}

#[tokio::test]
async fn a_lock_of_a_dead_process_is_two_requests() {
    let server = Server::start(&Setup::new()).unwrap();
    let taker = locker(&server, QUIET).await;
    warm(&taker).await;
    let store = Redis::from_url(server.url()).unwrap();
    let backend = store.connect(Side::Caller).await.unwrap();
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
    let judged = backend.read_process(&dead).await.unwrap().value;
    assert_eq!(judged, Liveness::Dead);

    let mut monitor = Monitor::of(&server);
    let robbed = taker.acquire("k", AcquireOptions::new()).await.unwrap();
    let guard = robbed.guard().unwrap();
    let expected = Asked::singly(&[("create", 1), ("take_over", 1)]);
    assert_eq!(monitor.asked(), expected);
    drop(guard);
}

/// F27: a release costs at most two attempts at the store, whoever waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_release_under_sixteen_waiters_is_at_most_two_attempts() {
    let server = Server::start(&Setup::new()).unwrap();
    let mut lockers = Vec::new();
    for _ in 0..4 {
        let locker = locker(&server, QUIET).await;
        warm(&locker).await;
        lockers.push(locker);
    }
    let guard = acquire(&lockers[0], "k").await;
    let mut monitor = Monitor::of(&server);
    let waiters: Vec<_> = (0..16)
        .map(|waiter| {
            let locker = lockers[waiter % 4].clone();
            tokio::spawn(async move { acquire(&locker, "k").await.release().await.unwrap() })
        })
        .collect();
    // The head of each process has tried, enrolled, and tried again.
    let mut before = Asked::default();
    let limit = Instant::now() + PATIENCE;
    while before.members("enrol") < 4 || before.members("create") < 8 {
        assert!(Instant::now() < limit, "{before:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        before.add(monitor.asked());
    }
    guard.release().await.unwrap();
    for waiter in waiters {
        tokio::time::timeout(PATIENCE, waiter)
            .await
            .unwrap()
            .unwrap();
    }
    let asked = monitor.asked();
    assert_eq!(asked.members("release"), 17, "{asked:?}");
    let attempts = asked.members("create") + asked.members("take_over");
    assert!(attempts <= 2 * 17, "{attempts} attempts: {asked:?}");
    // Who was served enrols anew for the next of its process.
    assert!(asked.members("enrol") <= 16, "{asked:?}");
}

impl Asked {
    fn add(&mut self, other: Self) {
        for (name, count) in other.requests {
            *self.requests.entry(name).or_default() += count;
        }
        for (name, count) in other.members {
            *self.members.entry(name).or_default() += count;
        }
    }
}

/// L7, at times that are a thirtieth of the default ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_locks_are_extended_and_checked_in_batches_of_64_and_cost_nothing_else() {
    const LOCKS: u64 = 1000;
    let server = Server::start(&Setup::new()).unwrap();
    let timing = Timing {
        extend_every: Duration::from_secs(2),
        recheck_every: Duration::from_millis(500),
        ..QUIET
    };
    let locker = locker(&server, timing).await;
    let mut guards = Vec::new();
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    for lock in 0..LOCKS {
        let acquired = locker.acquire(format!("k{lock}"), options.clone()).await;
        guards.push(acquired.unwrap().guard().unwrap());
    }
    let mut monitor = Monitor::of(&server);
    let mut asked = Asked::default();
    let limit = Instant::now() + PATIENCE;
    // The connection of the upkeep is opened by the first round, which is not counted.
    while asked.members("check") < LOCKS {
        assert!(Instant::now() < limit, "{asked:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        asked.add(monitor.asked());
    }
    asked = Asked::default();
    // From the middle of one interval to the middle of another, two extends later.
    while asked.members("extend") < 2 * LOCKS {
        assert!(Instant::now() < limit, "{asked:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        asked.add(monitor.asked());
    }
    let per_round = LOCKS.div_ceil(64);
    for operation in ["extend", "check"] {
        let rounds = asked.members(operation).div_ceil(LOCKS);
        let requests = asked.requests(operation);
        assert!(requests <= rounds * per_round, "{operation}: {asked:?}");
        assert!(requests >= rounds, "{operation}: {asked:?}");
    }
    let rounds = asked.members("check").div_ceil(LOCKS);
    assert!((2..=8).contains(&rounds), "{asked:?}");
    let others = asked.requests.keys();
    let others: Vec<_> = others
        .filter(|name| !["extend", "check"].contains(&name.as_str()))
        .collect();
    assert!(others.is_empty(), "{asked:?}");
    assert!(guards.iter().all(LockGuard::is_valid));
}
