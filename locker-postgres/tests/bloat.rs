//! What the tables have grown to after many acquisitions and releases of few keys. A million cycles
//! are a part of the benchmark: `cargo bench -p locker-postgres -- bloat`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod fixture;

use fixture::Somebody;
use futures_util::future::join_all;
use locker_core::backend::{Claim, Claimed, Released};
use locker_postgres::Postgres;
use locker_testkit::servers::postgres::Server;

const KEYS: usize = 100;
const ROUNDS: usize = 400;

/// Bytes of the table and of its index.
fn sizes(server: &Server) -> (u64, u64) {
    let of = |relation: &str| {
        let size = server.sql(&format!("SELECT pg_relation_size('locker.{relation}')"));
        size.unwrap().parse().unwrap()
    };
    (of("locks"), of("locks_pkey"))
}

/// Whatever autovacuum does: a row is changed on its own page and without its index, and pages are
/// tidied by those who come by.
#[tokio::test]
async fn forty_thousand_cycles_on_a_hundred_keys_leave_the_table_as_small_as_four_thousand() {
    let server = Server::start(&["fsync = off"])
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let store = Postgres::from_url(server.url()).unwrap();
    store.migrate().await.unwrap();
    let somebody = Somebody::over(&store).await;
    let mut early = (0, 0);
    for round in 1..=ROUNDS {
        let claims: Vec<Claim> = (0..KEYS)
            .map(|key| somebody.claim(&format!("k{key}")))
            .collect();
        let claimed = claims
            .iter()
            .map(|claim| somebody.backend.try_create(claim));
        for reply in join_all(claimed).await {
            assert!(matches!(reply.unwrap().value, Claimed::Granted(_)));
        }
        let released = claims
            .iter()
            .map(|claim| somebody.backend.release(&claim.owner));
        for reply in join_all(released).await {
            assert_eq!(reply.unwrap().value, Released::Done);
        }
        if round == ROUNDS / 10 {
            early = sizes(&server);
        }
    }
    let (table, index) = sizes(&server);
    println!("table and index: {early:?} early, {table} and {index} at the end");
    assert!(table <= early.0 * 3 / 2, "{table} after {early:?}");
    assert!(index <= early.1 * 3 / 2, "{index} after {early:?}");
    assert!(table <= 512 * 1024, "{table}");
    let updates = server.sql(
        "SELECT pg_stat_force_next_flush(); \
         SELECT n_tup_hot_upd || ' ' || n_tup_upd FROM pg_stat_user_tables WHERE relname = 'locks'",
    );
    let updates = updates.unwrap();
    let updates = updates.lines().last().unwrap().split_once(' ').unwrap();
    let (hot, all): (u64, u64) = (updates.0.parse().unwrap(), updates.1.parse().unwrap());
    println!("{hot} of {all} updates touched no index");
    assert!(hot * 100 >= all * 95, "{hot} of {all}");
}
