//! The model with which the simulation plays this store answers as it does.

mod fixture;

use locker_testkit::honesty::compare;
use locker_testkit::sim::Kind;

#[tokio::test]
async fn the_model_of_postgres_answers_as_postgres_does() {
    let compared = compare::<fixture::PostgresFixture>(Kind::Postgres, 30, 40).await;
    println!("{compared:?}");
}
