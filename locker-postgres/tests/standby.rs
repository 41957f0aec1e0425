//! Servers that take no writes: whoever asks one is told so, at once and for certain, and asks again.

mod fixture;

use fixture::Somebody;
use locker_core::backend::Side;
use locker_core::{Connect, Effect, ErrorKind};
use locker_postgres::Postgres;
use locker_testkit::servers::postgres::Server;
use sqlx::postgres::PgConnectOptions;

fn server() -> Server {
    let server = Server::start(&[]);
    server.unwrap_or_else(|missing| panic!("there is no store to test: {missing}"))
}

#[tokio::test]
async fn a_standby_is_refused_before_anything_is_asked_of_it() {
    let mut server = server();
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let somebody = Somebody::over(&store).await;
    let claim = somebody.acquire("k").await;
    // It recovers for ever, waits for a primary that never comes, and answers who only reads.
    std::fs::write(server.folder().join("data/standby.signal"), "").unwrap();
    server.start_again().unwrap();
    let recovers = server.sql("SELECT pg_is_in_recovery()").unwrap();
    assert_eq!(recovers, "t", "{}", server.log());

    for side in [Side::Caller, Side::Reports, Side::Upkeep] {
        let error = store.connect(side).await.expect_err("it is a standby");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert_eq!(error.effect(), Effect::NotApplied, "{error:?}");
        assert!(error.to_string().contains("standby"), "{error}");
    }
    let error = store.check().await.expect_err("it is a standby");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // It has its primary's schema, so nothing is to be done; another one cannot be made here.
    store.migrate().await.expect("nothing to do");
    let made = store.clone().namespace("another").migrate().await;
    let error = made.expect_err("it takes no writes");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");

    // What was open before is closed, and answers nobody with what the standby thinks.
    let asked = somebody.backend.try_create(&somebody.claim("k")).await;
    let error = asked.expect_err("its session ended with the server");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");

    // Promoted, it is a primary, and has what was committed.
    server.sql("SELECT pg_promote()").unwrap();
    let after = Somebody::over(&store).await;
    let held = after.read("k").await.expect("the lock is there");
    assert_eq!(held.data.owner, claim.owner);
}

#[tokio::test]
async fn a_role_that_may_only_read_does_nothing() {
    let server = server();
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let options: PgConnectOptions = server.url().parse().unwrap();
    let read_only = options.options([("default_transaction_read_only", "on")]);
    let store = Postgres::from_options(read_only);
    let somebody = Somebody::unborn(&store).await;
    let ttl = std::time::Duration::from_secs(60);
    let born = somebody.backend.create_process(&somebody.process, ttl);
    let error = born.await.expect_err("nothing can be written");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.effect(), Effect::NotApplied, "{error:?}");
    let claimed = somebody.backend.try_create(&somebody.claim("k")).await;
    let error = claimed.expect_err("nothing can be written");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.effect(), Effect::NotApplied, "{error:?}");
    assert!(somebody.read("k").await.is_none());
}
