//! Through `PgBouncer` in transaction mode: found out before anything is prepared, and no answer is
//! somebody else's (PG-4).

mod fixture;

use fixture::{PostgresFixture, Somebody};
use locker_core::backend::{Claimed, Liveness, Released, Renewal, Side, Standing};
use locker_core::{Connect, ErrorKind, Key};
use locker_postgres::{Between, CrashDetection, Postgres};
use locker_testkit::servers::postgres::{self, Bouncer, Server};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// A schema on the shared server, and the store in it through the pooler.
async fn pooled() -> (PostgresFixture, Postgres) {
    let (through, past) = match postgres::shared_bouncer() {
        Ok(urls) => urls,
        Err(missing) => panic!("there is no store to test: {missing}"),
    };
    let fixture = PostgresFixture::on(past).await;
    let fixture = fixture.unwrap_or_else(|missing| panic!("there is no store: {missing}"));
    let store = Postgres::from_url(through).expect("a sound answer");
    let store = store.namespace(fixture.schema());
    (fixture, store)
}

async fn is_found_out(store: &Postgres) -> bool {
    let backend = store.connect(Side::Caller).await.expect("a sound store");
    !backend.limits().hints
}

/// Also by the first client that it ever has, for which it opens its first session.
#[tokio::test]
async fn a_pooler_is_found_out_by_its_first_client_and_by_later_ones() {
    let started = Server::start(&["fsync = off"]).and_then(|server| {
        let bouncer = Bouncer::start(&server, 3)?;
        Ok((server, bouncer))
    });
    let (server, bouncer) = started.unwrap_or_else(|missing| panic!("no store: {missing}"));
    Postgres::from_url(server.url())
        .unwrap()
        .migrate()
        .await
        .unwrap();
    for _ in 0..10 {
        let store = Postgres::from_url(&bouncer.url()).unwrap();
        assert!(is_found_out(&store).await);
    }
    // Nothing was prepared by any of them, in any session of the pooler's.
    for _ in 0..6 {
        let options: PgConnectOptions = bouncer.url().parse().unwrap();
        let mut raw = options.extra_float_digits(None).connect().await.unwrap();
        let prepared: (i64,) = sqlx::query_as("SELECT count(*) FROM pg_prepared_statements")
            .persistent(false)
            .fetch_one(&mut raw)
            .await
            .unwrap();
        assert_eq!(prepared.0, 0);
    }
    let direct = Postgres::from_url(server.url()).unwrap();
    assert!(!is_found_out(&direct).await, "nothing is between");
}

/// Many that look at once keep all sessions that the pooler has, and each of them wants one more.
#[tokio::test]
async fn many_that_find_it_out_at_once_do_not_wait_for_each_other() {
    let started = Server::start(&["fsync = off"]).and_then(|server| {
        let bouncer = Bouncer::start(&server, 3)?;
        Ok((server, bouncer))
    });
    let (server, bouncer) = started.unwrap_or_else(|missing| panic!("no store: {missing}"));
    let direct = Postgres::from_url(server.url()).unwrap();
    direct.migrate().await.unwrap();
    let mut looking = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let url = bouncer.url();
        looking.spawn(async move { is_found_out(&Postgres::from_url(&url).unwrap()).await });
    }
    let found = tokio::time::timeout(LONG / 2, looking.join_all()).await;
    let found = found.expect("they wait for each other");
    assert!(found.iter().all(|found| *found), "{found:?}");
}

/// A migration through it is one transaction, which it does not tear.
#[tokio::test]
async fn a_schema_can_be_created_through_a_pooler() {
    let (fixture, store) = pooled().await;
    let schema = format!("{}-through", fixture.schema());
    let store = store.namespace(&schema);
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    let mut raw = fixture.raw().await;
    let drop = sqlx::AssertSqlSafe(format!("DROP SCHEMA \"{schema}\" CASCADE"));
    sqlx::raw_sql(drop).execute(&mut raw).await.unwrap();
}

/// The pool's sockets go through the pooler as well, and nobody said so.
#[tokio::test]
async fn a_pooler_is_found_out_behind_a_pool_that_was_handed_in() {
    let (fixture, _) = pooled().await;
    let (through, past) = postgres::shared_bouncer().unwrap();
    for (url, expected) in [(through, true), (past, false)] {
        let options: PgConnectOptions = url.parse().unwrap();
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(4)
            .connect_with(options.extra_float_digits(None))
            .await
            .unwrap();
        let store = Postgres::pool(pool.clone()).namespace(fixture.schema());
        assert_eq!(is_found_out(&store).await, expected, "{url}");
        let somebody = Somebody::over(&store).await;
        let claim = somebody.acquire("k").await;
        let released = somebody.backend.release(&claim.owner).await.unwrap().value;
        assert_eq!(released, Released::Done);
        drop(somebody);
        // Every connection goes back to its pool.
        let limit = tokio::time::Instant::now() + LONG;
        while pool.num_idle() < pool.size() as usize {
            assert!(tokio::time::Instant::now() < limit, "a connection was kept");
            tokio::task::yield_now().await;
        }
    }
}

/// Clients whose statements have parameters of equal types, so that nothing but the answer shows
/// when one runs another's.
async fn work(store: &Postgres, client: usize, rounds: usize) -> Result<usize, String> {
    let wrong = |what: &str, found: &dyn std::fmt::Debug| Err(format!("{what}: {found:?}"));
    let somebody = Somebody::over(store).await;
    let backend = &somebody.backend;
    let mut done = 0;
    for round in 0..rounds {
        let key = format!("{client}-{}", round % 7);
        let claim = somebody.claim(&key);
        match backend.try_create(&claim).await.map(|reply| reply.value) {
            Ok(Claimed::Granted(_)) => {}
            other => return wrong("try_create", &other),
        }
        let owners = std::slice::from_ref(&claim.owner);
        match backend
            .check(owners)
            .await
            .map(|mut reply| reply.value.remove(0))
        {
            Ok(Ok(Standing::Mine)) => {}
            other => return wrong("check", &other),
        }
        match backend
            .read_lock(claim.key())
            .await
            .map(|reply| reply.value)
        {
            Ok(Some(held)) if held.data.owner == claim.owner => {}
            other => return wrong("read_lock", &other),
        }
        match backend
            .renew_process(&somebody.process, LONG)
            .await
            .map(|reply| reply.value)
        {
            Ok(Renewal::Renewed { .. }) => {}
            other => return wrong("renew_process", &other),
        }
        match backend
            .read_process(&somebody.process)
            .await
            .map(|reply| reply.value)
        {
            Ok(Liveness::Alive(data)) if data.process == somebody.process => {}
            other => return wrong("read_process", &other),
        }
        match backend.release(&claim.owner).await.map(|reply| reply.value) {
            Ok(Released::Done) => {}
            other => return wrong("release", &other),
        }
        done += 6;
    }
    Ok(done)
}

async fn clients(store: &Postgres, rounds: usize) -> Vec<Result<usize, String>> {
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..8 {
        let store = store.clone();
        tasks.spawn(async move { work(&store, client, rounds).await });
    }
    tasks.join_all().await
}

/// How many operations: a share of the hundred thousand that a long run does.
fn rounds() -> usize {
    let asked = std::env::var("LOCKER_TEST_POOLED_OPERATIONS").ok();
    let operations = asked.and_then(|text| text.parse().ok()).unwrap_or(4_800);
    operations / (8 * 6)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_gets_the_answer_to_anothers_request() {
    let (_fixture, store) = pooled().await;
    let mut done = 0;
    for client in clients(&store, rounds()).await {
        done += client.unwrap_or_else(|wrong| panic!("after {done} operations: {wrong}"));
    }
    assert_eq!(done, rounds() * 8 * 6);
}

/// The same when the pooler is denied: this is what the plain texts are for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_prepared_through_a_pooler_is_soon_somebody_elses() {
    let (_fixture, store) = pooled().await;
    let told = store.between(Between::Sessions);
    let clients = tokio::spawn(async move { clients(&told, 200).await });
    let mixed_up = match clients.await {
        Ok(clients) => clients.iter().any(Result::is_err),
        // A birth that is somebody else's statement fails its client at once.
        Err(failed) => failed.is_panic(),
    };
    assert!(
        mixed_up,
        "then poolers keep sessions now, and nothing need be written out"
    );
}

/// Nobody can listen there: whoever waits polls, and `limits` says so. What is released there wakes
/// those who are connected directly.
#[tokio::test]
async fn a_release_through_a_pooler_wakes_those_who_have_a_session() {
    use futures_util::{FutureExt, StreamExt};
    use locker_core::backend::{Hint, Watcher};
    let (fixture, store) = pooled().await;
    let owner = Somebody::over(&store).await;
    let waiter = Somebody::over(&fixture.store()).await;
    let claim = owner.acquire("k").await;
    let watcher = Watcher::Waiter(waiter.process.clone());
    let key = Key::new("k").unwrap();
    let mut silent = owner.backend.watch(&key, &watcher).await.unwrap();
    let mut hints = waiter.backend.watch(&key, &watcher).await.unwrap();
    owner.backend.release(&claim.owner).await.unwrap();
    let told = tokio::time::timeout(LONG, hints.next()).await.unwrap();
    assert_eq!(told, Some(Hint::Free { place: 0 }));
    assert_eq!(silent.next().now_or_never(), None);
}

/// Nobody has a session of its own there, so nothing can be told by it.
#[tokio::test]
async fn a_crash_detector_that_needs_a_session_is_refused_behind_a_pooler() {
    let (fixture, store) = pooled().await;
    for side in [Side::Caller, Side::Reports] {
        let refused = store.clone().crash_detection(CrashDetection::SESSION);
        let error = refused.connect(side).await.expect_err("nobody has one");
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.to_string().contains("pooler"), "{error}");
    }
    let direct = fixture.store().crash_detection(CrashDetection::SESSION);
    direct.connect(Side::Caller).await.expect("a session");
}
