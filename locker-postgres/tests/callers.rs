//! Whoever asks drives its request while it is being polled. It may be dropped at any moment, and it
//! may stop being polled; neither does harm to anybody else.

mod fixture;

use fixture::{Somebody, fixture};
use futures_util::{FutureExt, StreamExt};
use locker_core::Key;
use locker_core::backend::{Hint, Side, Watcher};
use locker_core::{Connect, LockData};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::Connection;
use std::pin::pin;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// The wake-up follows in a statement of its own, and belongs to the release all the same.
#[tokio::test]
async fn who_waits_is_woken_also_when_the_caller_of_the_release_is_dropped() {
    let fixture = fixture().await;
    let owner = Somebody::over(&fixture.store()).await;
    let waiter = Somebody::over(&fixture.store()).await;
    let watcher = Watcher::Waiter(waiter.process.clone());
    let mut under_way = 0;
    // The first round prepares statements, which takes round trips before the request itself.
    for _ in 0..3 {
        let claim = owner.acquire("k").await;
        let mut hints = waiter.backend.watch(claim.key(), &watcher).await.unwrap();
        let mut release = Box::pin(owner.backend.release(&claim.owner));
        under_way += u32::from(release.as_mut().now_or_never().is_none());
        drop(release);
        let told = tokio::time::timeout(LONG, hints.next()).await;
        assert_eq!(told.expect("a wake-up"), Some(Hint::Free { place: 0 }));
    }
    assert!(under_way > 0, "none was under way when it was dropped");
}

/// As many callers as there are connections, and more, hold futures that they do not poll.
#[tokio::test]
async fn callers_that_do_not_go_on_keep_no_connection_from_others() {
    let fixture = fixture().await;
    let owner = Somebody::over(&fixture.store()).await;
    let claim = owner.acquire("k").await;
    let store = fixture.store();
    let backend = store.connect(Side::Caller).await.unwrap();
    let key = Key::new("k").unwrap();
    // All connections are there.
    let reads = (0..8).map(|_| backend.read_lock(&key));
    for read in futures_util::future::join_all(reads).await {
        assert!(read.unwrap().value.is_some());
    }
    // Otherwise a server may be quick enough to answer one at once.
    let mut raw = fixture.raw().await;
    let mut locking = raw.begin().await.expect("an answer");
    let lock = "LOCK TABLE locks IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock)
        .execute(&mut *locking)
        .await
        .expect(lock);
    let mut unpolled: Vec<_> = (0..6).map(|_| backend.read_lock(&key)).collect();
    for read in &mut unpolled {
        assert!(read.as_mut().now_or_never().is_none());
    }
    locking.rollback().await.expect("an answer");
    let read = tokio::time::timeout(LONG / 6, backend.read_lock(&key)).await;
    let held = read.expect("the connections are kept").unwrap().value;
    let owner_of = |data: LockData| data.owner;
    assert_eq!(
        held.map(|held| owner_of(held.data)),
        Some(claim.owner.clone())
    );
    // And those who come back later find their answers.
    for read in unpolled {
        let mut read = pin!(read);
        let held = tokio::time::timeout(LONG, read.as_mut()).await.unwrap();
        assert!(held.unwrap().value.is_some());
    }
}

/// The application's own pool of one: as long as the locker asks for nothing, it has it for itself.
#[tokio::test]
async fn a_pool_has_its_connection_while_nothing_is_asked() {
    let fixture = fixture().await;
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(LONG / 20)
        .connect(fixture.url())
        .await
        .expect("a pool");
    let store = locker_postgres::Postgres::pool(pool.clone()).namespace(fixture.schema());
    let backend = store.connect(Side::Caller).await.expect("a store");
    drop(pool.acquire().await.expect("nothing was asked yet"));
    let key = Key::new("k").unwrap();
    assert!(backend.read_lock(&key).await.unwrap().value.is_none());
    drop(pool.acquire().await.expect("it was answered"));
    let closed = tokio::time::timeout(LONG / 6, pool.close()).await;
    closed.expect("nothing is kept from it");
}

/// The other end is gone and says nothing; here it stands still. Without an end to the wait, the only
/// connection of its side would be lost for as long as the system keeps it.
#[tokio::test]
async fn a_connection_that_owes_an_answer_to_nobody_is_closed_in_the_end() {
    let fixture = fixture().await;
    let store = fixture.store();
    let backend = store.connect(Side::Upkeep).await.unwrap();
    let key = Key::new("k").unwrap();
    assert!(backend.read_lock(&key).await.unwrap().value.is_none());
    let session =
        "SELECT pid FROM pg_stat_activity WHERE query LIKE $1 AND pid <> pg_backend_pid()";
    let session: i32 = sqlx::query_scalar(session)
        .bind(format!("%{}%read_lock(%", fixture.schema()))
        .fetch_one(&mut fixture.raw().await)
        .await
        .expect("the session");
    let session = Pid::from_raw(session);
    kill(session, Signal::SIGSTOP).unwrap();
    let asked = std::time::Instant::now();
    let mut answered = false;
    while !answered && asked.elapsed() < LONG / 3 {
        let read = tokio::time::timeout(LONG / 120, backend.read_lock(&key)).await;
        answered = read.is_ok_and(|read| read.is_ok());
    }
    kill(session, Signal::SIGCONT).unwrap();
    assert!(answered, "no other connection was opened");
    assert!(
        asked.elapsed() >= LONG / 15,
        "a late answer was not waited for"
    );
}
