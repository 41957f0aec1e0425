//! L8: no living process stands in a line that it has left. A place that nobody takes holds up
//! everybody behind it, each time that the lock goes.

mod fixture;

use fixture::{PostgresFixture, Somebody};
use futures_util::StreamExt;
use locker_core::backend::{Claim, Hint, HintStream, Side, Watcher};
use locker_core::{Backend, Connect};
use locker_testkit::Fixture;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryScalar;
use sqlx::{Connection, Postgres};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(60);

struct Line {
    fixture: PostgresFixture,
    owner: Somebody,
    claim: Claim,
}

/// A lock that is held, so that one can wait for it.
async fn line() -> Line {
    let fixture = PostgresFixture::open().await;
    let fixture = fixture.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
    let owner = Somebody::over(&fixture.store()).await;
    let claim = owner.acquire("k").await;
    Line {
        fixture,
        owner,
        claim,
    }
}

impl Line {
    async fn watch(&self, backend: &dyn Backend, waiter: &Somebody) -> HintStream {
        let watcher = Watcher::Waiter(waiter.process.clone());
        let hints = backend.watch(self.claim.key(), &watcher).await;
        hints.expect("an enrolment")
    }

    async fn number(&self, query: QueryScalar<'_, Postgres, i64, PgArguments>) -> i64 {
        query
            .fetch_one(&mut self.fixture.raw().await)
            .await
            .expect("an answer")
    }

    async fn enrolments(&self) -> i64 {
        let all = sqlx::query_scalar("SELECT count(*) FROM waiters");
        self.number(all).await
    }

    async fn until_nobody_waits(&self) {
        until("nobody waits", async || self.enrolments().await == 0).await;
    }

    /// Ends the sessions that listen.
    async fn cut(&self) {
        let end =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE $1";
        let end = sqlx::query_scalar(end).bind(format!("%{}%.enrol(%", self.fixture.schema()));
        assert!(self.number(end).await > 0, "somebody listens");
    }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let limit = Instant::now() + LONG;
    while !done().await {
        assert!(Instant::now() < limit, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What is withdrawn while the connection for wake-ups is being rebuilt is withdrawn on the new one.
#[tokio::test]
async fn what_is_dropped_while_the_connection_is_lost_is_withdrawn_on_the_next() {
    let line = line().await;
    let waiter = Somebody::over(&line.fixture.store()).await;
    let hints = line.watch(&*waiter.backend, &waiter).await;
    assert_eq!(line.enrolments().await, 1);
    line.cut().await;
    drop(hints);
    line.until_nobody_waits().await;
}

/// Neither does the loss of all connections at once leave anybody behind.
#[tokio::test]
async fn an_enrolment_outlives_its_connection_by_no_more_than_the_next_one() {
    let line = line().await;
    let store = line.fixture.store();
    let waiter = Somebody::over(&line.fixture.store()).await;
    let backend = store.connect(Side::Caller).await.unwrap();
    let mut hints = line.watch(&*backend, &waiter).await;
    drop(backend);
    assert_eq!(hints.next().await, None);
    drop(hints);
    assert_eq!(line.enrolments().await, 1, "nothing is connected");
    let _next = store.connect(Side::Caller).await.unwrap();
    assert_eq!(line.enrolments().await, 0);
}

/// Whoever asked may be gone before its enrolment is written.
#[tokio::test]
async fn an_enrolment_whose_caller_has_gone_is_withdrawn() {
    let line = line().await;
    let waiter = Somebody::over(&line.fixture.store()).await;
    // An enrolment waits for the lock of the lock's row.
    let mut raw = line.fixture.raw().await;
    let mut held = raw.begin().await.unwrap();
    let lock = "SELECT key FROM locks WHERE key = $1 FOR UPDATE";
    let lock = sqlx::query(lock).bind(line.claim.key().as_str());
    lock.execute(&mut *held).await.unwrap();
    let asking = {
        let (backend, process) = (Arc::clone(&waiter.backend), waiter.process.clone());
        let key = line.claim.key().clone();
        tokio::spawn(async move { drop(backend.watch(&key, &Watcher::Waiter(process)).await) })
    };
    let waits = format!("%{}%.enrol(%", line.fixture.schema());
    until("it waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1";
        line.number(sqlx::query_scalar(waiting).bind(&waits)).await == 1
    })
    .await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    held.rollback().await.unwrap();
    // It is written all the same, and then withdrawn.
    until("it is written", async || {
        let places = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('waiters', 'place')::regclass), 0)";
        line.number(sqlx::query_scalar(places)).await == 1
    })
    .await;
    line.until_nobody_waits().await;
}

/// Of the enrolments of one process for one key the newest counts.
#[tokio::test]
async fn a_process_stands_in_a_line_once() {
    let line = line().await;
    let waiter = Somebody::over(&line.fixture.store()).await;
    let other = Somebody::over(&line.fixture.store()).await;
    let _old = line.watch(&*waiter.backend, &waiter).await;
    let mut hints = line.watch(&*waiter.backend, &waiter).await;
    let mut next = line.watch(&*other.backend, &other).await;
    assert_eq!(line.enrolments().await, 2);
    line.owner.backend.release(&line.claim.owner).await.unwrap();
    assert_eq!(hints.next().await, Some(Hint::Free { place: 0 }));
    assert_eq!(next.next().await, Some(Hint::Free { place: 1 }));
}
