//! How many statements an operation costs, counted by the server (`pg_stat_statements`).

mod fixture;

use fixture::Somebody;
use locker_core::OwnerHash;
use locker_core::backend::{Claimed, Released, Watcher};
use locker_postgres::Postgres;
use locker_testkit::servers::postgres::Server;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// The statements of the schema that the server has run since the last count.
fn counted(server: &Server) -> Vec<String> {
    let statements = server
        .sql(
            "SELECT calls || ' ' || substring(query FROM '\"locker\"\\.(\\w+)') \
             FROM pg_stat_statements WHERE query LIKE '%\"locker\".%' \
             AND query NOT LIKE '%about%' ORDER BY 1; SELECT pg_stat_statements_reset()",
        )
        .expect("a sound answer");
    let lines = statements.lines().filter(|line| !line.trim().is_empty());
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn an_operation_is_one_statement_and_a_wake_up_is_another() {
    let server = Server::start(&[
        "shared_preload_libraries = 'pg_stat_statements'",
        // What functions do inside is not a statement of a client's.
        "pg_stat_statements.track = top",
    ])
    .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    server.sql("CREATE EXTENSION pg_stat_statements").unwrap();
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let one = Somebody::over(&store).await;
    let two = Somebody::over(&store).await;
    counted(&server);

    // A free lock: one to acquire, one to release.
    let claim = one.acquire("k").await;
    assert_eq!(counted(&server), ["1 try_create"]);
    let released = one.backend.release(&claim.owner).await.unwrap().value;
    assert_eq!(released, Released::Done);
    assert_eq!(counted(&server), ["1 release"]);

    // A contended try, which writes nothing: no transaction gets a number for it.
    let claim = one.acquire("k").await;
    let number = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
    let before = server.sql(number).unwrap();
    counted(&server);
    for _ in 0..10 {
        let refused = two.backend.try_create(&two.claim("k")).await.unwrap();
        assert!(matches!(refused.value, Claimed::Held(_)));
    }
    assert_eq!(counted(&server), ["10 try_create"]);
    assert_eq!(
        server.sql(number).unwrap(),
        before,
        "a refused try wrote something"
    );

    // A release that somebody waits for: one, and one more to tell everybody.
    let watcher = Watcher::Waiter(two.process.clone());
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(two.backend.watch(claim.key(), &watcher).await.unwrap());
    }
    assert_eq!(counted(&server), ["16 enrol"]);
    one.backend.release(&claim.owner).await.unwrap();
    assert_eq!(counted(&server), ["1 release", "1 wake"]);

    // A take-over: one look, one swap.
    let claim = one.acquire("k").await;
    one.backend.retire_process(&one.process).await.unwrap();
    counted(&server);
    let held = two.read("k").await.expect("it is held");
    let taken = two
        .backend
        .take_over(&two.claim("k"), &held.observed)
        .await
        .unwrap();
    assert!(matches!(taken.value, Claimed::Granted(_)));
    assert_eq!(counted(&server), ["1 read_lock", "1 take_over"]);
    drop(claim);

    // Many locks are kept by one statement.
    let three = Somebody::over(&store).await;
    let mut owners: Vec<OwnerHash> = Vec::new();
    for n in 0..64 {
        owners.push(three.acquire(&format!("many {n}")).await.owner);
    }
    counted(&server);
    three.backend.extend(&owners, LONG).await.unwrap();
    three.backend.check(&owners).await.unwrap();
    assert_eq!(counted(&server), ["1 extend", "1 standings"]);
}
