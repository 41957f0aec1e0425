//! L8: no living process stands in a line that it has left. A place that nobody takes holds up
//! everybody behind it, each time that the lock goes.

mod fixture;

use fixture::{PostgresFixture, Somebody};
use futures_util::StreamExt;
use locker_core::backend::{Claim, Hint, HintStream, Side, Watcher};
use locker_core::{Backend, Connect};
use locker_testkit::Fixture;
use locker_testkit::servers::postgres::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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

/// A dead process has no place, leaves the line at the next release, and is told so; where nobody is left,
/// releases tell nobody any more.
#[tokio::test]
async fn the_dead_leave_the_line_at_the_next_release() {
    let line = line().await;
    let dead = Somebody::over(&line.fixture.store()).await;
    let waiter = Somebody::over(&line.fixture.store()).await;
    let mut left = line.watch(&*dead.backend, &dead).await;
    let mut hints = line.watch(&*waiter.backend, &waiter).await;
    let end = async |who: &Somebody| {
        let expire = "UPDATE processes SET expires = 0 WHERE process = $1";
        let expire = sqlx::query(expire).bind(who.process.as_str());
        let mut raw = line.fixture.raw().await;
        expire.execute(&mut raw).await.unwrap();
    };
    let wanted = async || {
        let wanted = "SELECT count(*) FROM locks WHERE wanted";
        line.number(sqlx::query_scalar(wanted)).await
    };
    end(&dead).await;
    line.owner.backend.release(&line.claim.owner).await.unwrap();
    let told = tokio::time::timeout(LONG, hints.next()).await.unwrap();
    assert_eq!(told, Some(Hint::Free { place: 0 }));
    let told = tokio::time::timeout(LONG, left.next()).await.unwrap();
    assert_eq!(told, None);
    assert_eq!((line.enrolments().await, wanted().await), (1, 1));

    let again = line.owner.acquire("k").await;
    end(&waiter).await;
    line.owner.backend.release(&again.owner).await.unwrap();
    let told = tokio::time::timeout(LONG, hints.next()).await.unwrap();
    assert_eq!(told, None);
    assert_eq!((line.enrolments().await, wanted().await), (0, 0));

    // Who has withdrawn is not there to be told either.
    let again = line.owner.acquire("k").await;
    drop(line.watch(&*line.owner.backend, &line.owner).await);
    line.until_nobody_waits().await;
    assert_eq!(wanted().await, 1);
    line.owner.backend.release(&again.owner).await.unwrap();
    assert_eq!(wanted().await, 0);
}

/// A process that has held very many locks ends, and somebody waits for each of them: they are told within
/// the time that a wake-up has before its connection is given up.
#[tokio::test]
async fn the_end_of_a_process_wakes_the_waiters_of_all_its_locks() {
    const LOCKS: i32 = 10_000;
    const LATE: Duration = Duration::from_secs(5);
    let line = line().await;
    let waiter = Somebody::over(&line.fixture.store()).await;
    let mut hints = line.watch(&*waiter.backend, &waiter).await;
    let held = "INSERT INTO locks (key, token, format, owner, process, acquired_at, extended_at, expires, wanted)
        SELECT 'many-' || n, l.token, 1, 'many-' || n, l.process, l.acquired_at, l.extended_at, l.expires, true
        FROM locks l, generate_series(1, $1) n WHERE l.key = 'k'";
    let waits = "INSERT INTO waiters (key, id, process, turn)
        SELECT 'many-' || n, n, $2, n FROM generate_series(1, $1) n";
    let mut raw = line.fixture.raw().await;
    let held = sqlx::query(held).bind(LOCKS);
    held.execute(&mut raw).await.unwrap();
    let waits = sqlx::query(waits).bind(LOCKS).bind(waiter.process.as_str());
    waits.execute(&mut raw).await.unwrap();
    let owner = &line.owner;
    let begun = Instant::now();
    owner.backend.retire_process(&owner.process).await.unwrap();
    assert!(begun.elapsed() < LATE, "it took {:?}", begun.elapsed());
    let heard = tokio::time::timeout(LONG, hints.next()).await.unwrap();
    assert_eq!(heard, Some(Hint::Free { place: 0 }));
}

/// A request that lies in the socket of a connection that was given up may still be executed, when the
/// server gets to it. By then the same process may have enrolled anew for the same key, on the next
/// connection; that is the enrolment that it listens for.
#[tokio::test]
async fn an_enrolment_that_lands_late_does_not_take_the_place_of_a_newer_one() {
    let server = Server::start(&["fsync = off"]);
    let server = server.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
    let store = locker_postgres::Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let owner = Somebody::over(&store).await;
    let claim = owner.acquire("k").await;
    let other = owner.acquire("other").await;
    let waiter = Somebody::over(&store).await;
    let watcher = Watcher::Waiter(waiter.process.clone());

    let given_up = store.connect(Side::Caller).await.unwrap();
    let _open = given_up.watch(other.key(), &watcher).await.unwrap();
    let listens =
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '%.enrol(%' AND pid <> pg_backend_pid()";
    let session = server.sql(listens).unwrap();
    let session = Pid::from_raw(session.trim().parse().expect("one session"));
    kill(session, Signal::SIGSTOP).unwrap();
    let late = given_up.watch(claim.key(), &watcher);
    let unanswered = tokio::time::timeout(Duration::from_millis(300), late).await;
    assert!(unanswered.is_err(), "the session stands still");
    drop(given_up);

    let next = store.connect(Side::Caller).await.unwrap();
    let mut hints = next.watch(claim.key(), &watcher).await.unwrap();
    let enrolled = "SELECT id FROM locker.waiters WHERE key = 'k'";
    let newer = server.sql(enrolled).unwrap();
    kill(session, Signal::SIGCONT).unwrap();
    // It does what lies in its socket, and then finds that nobody is there.
    until("the session ends", async || {
        let there = format!("SELECT FROM pg_stat_activity WHERE pid = {session}");
        let there = format!("SELECT count(*) FROM ({there}) s");
        server.sql(&there).unwrap().trim() == "0"
    })
    .await;
    assert_eq!(server.sql(enrolled).unwrap(), newer);
    owner.backend.release(&claim.owner).await.unwrap();
    let heard = tokio::time::timeout(LONG, hints.next()).await.unwrap();
    assert_eq!(heard, Some(Hint::Free { place: 0 }));
}

/// Of two streams of one process for one key the older one says that it has ended, so that nobody
/// listens to it in vain.
#[tokio::test]
async fn an_enrolment_that_a_newer_one_has_replaced_ends_its_stream() {
    let line = line().await;
    let waiter = Somebody::over(&line.fixture.store()).await;
    let mut old = line.watch(&*waiter.backend, &waiter).await;
    let mut hints = line.watch(&*waiter.backend, &waiter).await;
    let heard = tokio::time::timeout(LONG, old.next()).await.unwrap();
    assert_eq!(heard, None);
    line.owner.backend.release(&line.claim.owner).await.unwrap();
    assert_eq!(hints.next().await, Some(Hint::Free { place: 0 }));
}

/// Somebody keeps the row of one lock while the connection is rebuilt. That lock's stream ends, and
/// the others hear again.
#[tokio::test]
async fn a_lock_whose_row_is_kept_does_not_make_the_others_deaf() {
    let line = line().await;
    let waiter = Somebody::over(&line.fixture.store()).await;
    let other = line.owner.acquire("other").await;
    let watcher = Watcher::Waiter(waiter.process.clone());
    let mut kept = line.watch(&*waiter.backend, &waiter).await;
    let mut hints = waiter.backend.watch(other.key(), &watcher).await.unwrap();
    let mut raw = line.fixture.raw().await;
    let mut held = raw.begin().await.unwrap();
    let lock = "SELECT key FROM locks WHERE key = $1 FOR UPDATE";
    let lock = sqlx::query(lock).bind(line.claim.key().as_str());
    lock.execute(&mut *held).await.unwrap();
    line.cut().await;
    let told = tokio::time::timeout(LONG / 6, hints.next()).await;
    assert_eq!(told.expect("the row is kept"), Some(Hint::Rebuilt));
    assert_eq!(kept.next().await, None);
    line.owner.backend.release(&other.owner).await.unwrap();
    assert_eq!(hints.next().await, Some(Hint::Free { place: 0 }));
    held.rollback().await.unwrap();
    drop((kept, hints));
    line.until_nobody_waits().await;
}

/// Two who withdraw the same enrolments in different orders would otherwise wait for each other.
#[tokio::test]
async fn what_is_withdrawn_is_locked_in_the_order_of_the_keys() {
    let line = line().await;
    let waiter = Somebody::over(&line.fixture.store()).await;
    let other = line.owner.acquire("a").await;
    let watcher = Watcher::Waiter(waiter.process.clone());
    let _last = line.watch(&*waiter.backend, &waiter).await;
    let _first = waiter.backend.watch(other.key(), &watcher).await.unwrap();
    let mut first = line.fixture.raw().await;
    let mut first = first.begin().await.unwrap();
    let lock = "SELECT id FROM waiters WHERE key = 'a' FOR UPDATE";
    sqlx::query(lock).execute(&mut *first).await.unwrap();
    // It waits for one second at most, so these are opened before.
    let (mut raw, mut watch) = (line.fixture.raw().await, line.fixture.raw().await);
    let withdrawing = tokio::spawn(async move {
        let all = "SELECT withdraw(array_agg(key ORDER BY key DESC), array_agg(id ORDER BY key DESC)) FROM waiters";
        sqlx::query(all).execute(&mut raw).await
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'SELECT withdraw(%'";
    until("it waits", async || {
        let waits = sqlx::query_scalar::<_, i64>(waits);
        waits.fetch_one(&mut watch).await.unwrap() == 1
    })
    .await;
    let free = "SELECT id FROM waiters WHERE key = 'k' FOR UPDATE NOWAIT";
    let free = sqlx::query(free).execute(&mut watch);
    free.await
        .expect("it waits for the first and keeps no other");
    first.rollback().await.unwrap();
    withdrawing
        .await
        .unwrap()
        .expect("nobody is in its way any more");
}
