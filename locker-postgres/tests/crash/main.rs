//! How soon the locks of a process that was killed are taken over, by real processes. It is a program
//! and not a list of tests, because it starts itself as the process that is killed; and what it
//! measures runs alone.
//!
//! A promise of time fails above twice itself; every repetition is printed.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it is a program of tests"
)]

mod victim;

use distributed_locker::{AcquireOptions, LockGuard, Locker, Timing, Wait};
use locker_postgres::{CrashDetection, Postgres};
use locker_testkit::servers::postgres::Server;
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::time::{Duration, Instant};
use victim::Victim;

/// What is added to the grace: one look, one take-over.
const OVERHEAD: Duration = Duration::from_millis(200);

const REPETITIONS: usize = 20;

/// So many are killed at the same time, each the owner of a lock of its own.
const AT_ONCE: usize = 4;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Some((url, key)) = victim::asked_for(&args) {
        return runtime.block_on(victim::hold(&url, &key));
    }
    // What cargo passes on, a filter for example, is compared with the names.
    let wanted = |name: &str| {
        let mut filters = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    macro_rules! run {
        ($($name:ident($($argument:expr),*);)*) => {$(
            if wanted(stringify!($name)) {
                println!("{} …", stringify!($name));
                runtime.block_on($name($($argument),*));
                println!("{} ok", stringify!($name));
            }
        )*};
    }
    run! {
        a_killed_process_is_taken_over_within_a_grace_of_800_ms();
        a_killed_process_is_taken_over_within_a_grace_of_3_s();
        a_killed_process_is_taken_over_by_its_reports_alone();
        a_broken_connection_alone_loses_no_lock();
        a_stopped_process_keeps_its_locks_while_its_session_stands();
    }
}

async fn a_killed_process_is_taken_over_within_a_grace_of_800_ms() {
    let grace = Duration::from_millis(800);
    killed(session(grace), REPETITIONS, grace + OVERHEAD).await;
}

async fn a_killed_process_is_taken_over_within_a_grace_of_3_s() {
    let grace = Duration::from_secs(3);
    killed(session(grace), REPETITIONS, grace + OVERHEAD).await;
}

/// L2.
async fn a_killed_process_is_taken_over_by_its_reports_alone() {
    let Timing {
        liveness_ttl,
        report_every,
        ..
    } = Timing::default();
    let promise = liveness_ttl + report_every + Duration::from_millis(500);
    killed(CrashDetection::Reports, AT_ONCE, promise).await;
}

fn session(grace: Duration) -> CrashDetection {
    CrashDetection::Session { grace }
}

/// A server with the locker's schema.
async fn server() -> Server {
    let server = Server::start(&["max_connections = 200"])
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    store(&server, CrashDetection::Reports)
        .migrate()
        .await
        .unwrap();
    server
}

fn store(server: &Server, by: CrashDetection) -> Postgres {
    Postgres::from_url(server.url())
        .unwrap()
        .crash_detection(by)
}

async fn locker(server: &Server, by: CrashDetection) -> Locker {
    let builder = Locker::builder(Arc::new(store(server, by)));
    builder.start().await.unwrap()
}

/// Holds whatever `key` says as soon as it is free, and says when that was.
async fn taken_over(locker: Locker, key: String) -> (Instant, LockGuard) {
    let options = AcquireOptions::new().wait(Wait::Forever);
    let acquired = locker.acquire(key, options).await.unwrap();
    (Instant::now(), acquired.guard().unwrap())
}

/// Kills owners while others wait for their locks.
async fn killed(by: CrashDetection, repetitions: usize, promise: Duration) {
    let server = server().await;
    let waiting = locker(&server, by).await;
    let mut repetition = 0;
    while repetition < repetitions {
        let mut owners = Vec::new();
        for _ in 0..AT_ONCE.min(repetitions - repetition) {
            let key = format!("k{repetition}");
            owners.push(Victim::start(&server, by, &key).await);
            repetition += 1;
        }
        let waiters = owners.iter().map(|owner| {
            let waiter = taken_over(waiting.clone(), owner.key().to_owned());
            tokio::spawn(waiter)
        });
        let waiters: Vec<_> = waiters.collect();
        // They stand in the line, and the owners report at other moments than they began.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let mut killed = Vec::new();
        for owner in owners {
            killed.push(Instant::now());
            owner.signal(Signal::SIGKILL);
            tokio::time::sleep(Duration::from_millis(130)).await;
        }
        for (waiter, killed) in waiters.into_iter().zip(killed) {
            let waited = tokio::time::timeout(4 * promise, waiter).await;
            let (granted, guard) = waited.expect("nobody took it over").unwrap();
            let took = granted.saturating_duration_since(killed);
            println!(
                "  {} was taken over after {took:?}; promised {promise:?}",
                guard.key()
            );
            assert!(took <= 2 * promise, "{took:?}, promised {promise:?}");
            guard.release().await.unwrap();
        }
    }
}

/// The Reporter's session is ended again and again, as by a firewall. Each time the advisory lock is
/// free for a moment, and each time the next report brings it to the new session.
async fn a_broken_connection_alone_loses_no_lock() {
    let server = server().await;
    let by = session(Duration::from_secs(3));
    let mut owner = Victim::start(&server, by, "k").await;
    let waiter = tokio::spawn(taken_over(locker(&server, by).await, "k".to_owned()));
    let keeper = "FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted";
    // The owner's, and that of the process which waits.
    let kept = || server.sql(&format!("SELECT count(*) {keeper}")).unwrap();
    for _ in 0..6 {
        let until = Instant::now() + Duration::from_secs(3);
        while kept().trim() != "2" {
            assert!(
                Instant::now() < until,
                "the advisory lock was not brought back"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ended = server.sql(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT DISTINCT pid {keeper}) keepers"
        ));
        assert_eq!(ended.unwrap().trim(), "2");
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    assert!(!waiter.is_finished(), "a living owner was taken over");
    owner.must_not_have_lost_it();
    waiter.abort();
}

/// Its reports have stopped, its locks are lost by its own clock, and its session stands: nobody takes
/// over from it for as long as that is believed.
async fn a_stopped_process_keeps_its_locks_while_its_session_stands() {
    const BELIEVED: Duration = Duration::from_secs(10);
    let server = server().await;
    let grace = Duration::from_millis(800);
    let by = session(grace);
    let owner = Victim::start(&server, by, "k").await;
    let waiter = tokio::spawn(taken_over(locker(&server, by).await, "k".to_owned()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stopped = Instant::now();
    owner.signal(Signal::SIGSTOP);
    let (granted, guard) = waiter.await.unwrap();
    let took = granted.saturating_duration_since(stopped);
    println!("  a stopped process was taken over after {took:?}");
    // Its last report was up to a fifth of the grace before it was stopped.
    assert!(took + grace / 2 >= BELIEVED, "{took:?}");
    assert!(took <= 2 * BELIEVED, "{took:?}");
    guard.release().await.unwrap();
}
