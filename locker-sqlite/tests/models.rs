//! The model with which the simulation plays this store answers as it does.

mod fixture;

use locker_testkit::honesty::compare;
use locker_testkit::sim::Kind;

#[tokio::test]
async fn the_model_of_the_embedded_store_answers_as_sqlite_does() {
    let compared = compare::<fixture::SqliteFixture>(Kind::Embedded, 40, 40).await;
    println!("{compared:?}");
}
