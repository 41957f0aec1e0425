//! How many statements an operation costs, counted by the server (`pg_stat_statements`).

mod fixture;

use fixture::Somebody;
use locker_core::OwnerHash;
use locker_core::backend::{Claimed, Released, Watcher};
use locker_postgres::Postgres;
use locker_testkit::servers::postgres::{Server, Statements};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_operation_is_one_statement_and_a_wake_up_is_another() {
    let server = Server::start_counting(&[])
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let mut seen = Statements::default();
    // What the server has run of the schema since the last count.
    let mut counted = || {
        let new = seen.look_again(&server).expect("a sound answer");
        new.functions()
    };
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let one = Somebody::over(&store).await;
    let two = Somebody::over(&store).await;
    counted();

    // A free lock: one to acquire, one to release.
    let claim = one.acquire("k").await;
    assert_eq!(counted(), ["1 try_create"]);
    let released = one.backend.release(&claim.owner).await.unwrap().value;
    assert_eq!(released, Released::Done);
    assert_eq!(counted(), ["1 release"]);

    // A contended try, which writes nothing: no transaction gets a number for it.
    let claim = one.acquire("k").await;
    let number = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
    let before = server.sql(number).unwrap();
    counted();
    for _ in 0..10 {
        let refused = two.backend.try_create(&two.claim("k")).await.unwrap();
        assert!(matches!(refused.value, Claimed::Held(_)));
    }
    assert_eq!(counted(), ["10 try_create"]);
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
    assert_eq!(counted(), ["16 enrol"]);
    one.backend.release(&claim.owner).await.unwrap();
    assert_eq!(counted(), ["1 release", "1 wake"]);

    // A take-over: one look, one swap.
    let claim = one.acquire("k").await;
    one.backend.retire_process(&one.process).await.unwrap();
    counted();
    let held = two.read("k").await.expect("it is held");
    let taken = two
        .backend
        .take_over(&two.claim("k"), &held.observed)
        .await
        .unwrap();
    assert!(matches!(taken.value, Claimed::Granted(_)));
    assert_eq!(counted(), ["1 read_lock", "1 take_over"]);
    drop(claim);

    // Many locks are kept by one statement.
    let three = Somebody::over(&store).await;
    let mut owners: Vec<OwnerHash> = Vec::new();
    for n in 0..64 {
        owners.push(three.acquire(&format!("many {n}")).await.owner);
    }
    counted();
    three.backend.extend(&owners, LONG).await.unwrap();
    three.backend.check(&owners).await.unwrap();
    assert_eq!(counted(), ["1 extend", "1 standings"]);
}
