//! The model with which the simulation plays this store answers as it does.

mod fixture;

use locker_testkit::honesty::compare;
use locker_testkit::sim::Kind;

#[tokio::test]
async fn the_model_of_etcd_answers_as_etcd_does() {
    let compared = compare::<fixture::EtcdFixture>(Kind::Etcd, 20, 40).await;
    println!("{compared:?}");
}
