//! Connections that are lost, and servers that stand still.

mod fixture;

use fixture::{PostgresFixture, Somebody};
use futures_util::StreamExt;
use locker_core::backend::{Hint, Watcher};
use locker_postgres::Postgres;
use locker_testkit::Fixture;
use locker_testkit::servers::postgres::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(60);

/// Attack 20b: whoever waits is told when its connection was lost, and hears again afterwards.
#[tokio::test]
async fn a_lost_connection_for_wake_ups_is_rebuilt_and_told() {
    let fixture = PostgresFixture::open().await;
    let fixture = fixture.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
    let owner = Somebody::over(&fixture.store()).await;
    let waiter = Somebody::over(&fixture.store()).await;
    let claim = owner.acquire("k").await;
    let watcher = Watcher::Waiter(waiter.process.clone());
    let mut hints = waiter.backend.watch(claim.key(), &watcher).await.unwrap();
    let mut raw = fixture.raw().await;
    for _ in 0..2 {
        let ended: i64 = sqlx::query_scalar(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE $1",
        )
        .bind(format!("%{}%.enrol(%", fixture.schema()))
        .fetch_one(&mut raw)
        .await
        .unwrap();
        assert!(ended > 0, "somebody listens");
        let told = tokio::time::timeout(LONG, hints.next()).await.unwrap();
        assert_eq!(told, Some(Hint::Rebuilt));
    }
    owner.backend.release(&claim.owner).await.unwrap();
    let told = tokio::time::timeout(LONG, hints.next()).await.unwrap();
    assert_eq!(told, Some(Hint::Free { place: 0 }));
}

/// The sockets of this process that lead to a port.
fn sockets(port: u16) -> usize {
    let port = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("a sound answer");
    let inodes: Vec<String> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[2].ends_with(&port))
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    std::fs::read_dir("/proc/self/fd")
        .expect("a sound answer")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| inodes.contains(&target.to_string_lossy().into_owned()))
        .count()
}

/// Sessions that stand still. They go on when the value goes, however the test ends: a stopped one
/// would outlive its server.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn stop(sessions: Vec<Pid>) -> Self {
        for session in &sessions {
            kill(*session, Signal::SIGSTOP).expect("a session of a server of ours");
        }
        Self(sessions)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for session in &self.0 {
            kill(*session, Signal::SIGCONT).ok();
        }
    }
}

/// Attack 30: a connection to a server that stands still is closed when it is given up, and not when
/// the server feels like it; otherwise every time-out of an outage would leave a socket behind.
#[tokio::test]
async fn connections_to_a_server_that_stands_still_close_when_they_are_given_up() {
    let server = Server::start(&["fsync = off"]);
    let server = server.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let somebody = Somebody::over(&store).await;
    let claim = somebody.acquire("k").await;
    let watcher = Watcher::Waiter(somebody.process.clone());
    let hints = somebody.backend.watch(claim.key(), &watcher).await.unwrap();
    let sessions = server
        .sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
        .unwrap();
    let sessions: Vec<Pid> = sessions
        .lines()
        .map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .collect();
    assert!(sessions.len() >= 2, "{sessions:?}");
    let stopped = Stopped::stop(sessions);
    assert!(sockets(server.port()) >= 2);
    // A request is under way, and a withdrawal, when all of it is given up.
    let release = somebody.backend.release(&claim.owner);
    let unanswered = tokio::time::timeout(Duration::from_millis(100), release).await;
    assert!(unanswered.is_err(), "the server stands still");
    drop(hints);
    drop(somebody);
    let limit = Instant::now() + LONG / 6;
    while sockets(server.port()) > 0 {
        assert!(Instant::now() < limit, "a socket is left");
        tokio::task::yield_now().await;
    }
    drop(stopped);
}
