//! The models with which the simulation plays this store answer as it does: alone, behind Sentinel,
//! and as a cluster.

mod fixture;

use locker_testkit::honesty::compare;
use locker_testkit::sim::Kind;

#[tokio::test]
async fn the_model_of_redis_answers_as_redis_does() {
    let compared = compare::<fixture::Standalone>(Kind::Redis, 40, 40).await;
    println!("{compared:?}");
}

#[tokio::test]
async fn the_model_of_a_replicated_redis_answers_as_redis_behind_sentinel_does() {
    let compared = compare::<fixture::Sentinel>(Kind::Replicated, 20, 40).await;
    println!("{compared:?}");
}

#[tokio::test]
async fn the_model_of_a_cluster_answers_as_redis_cluster_does() {
    let compared = compare::<fixture::Cluster>(Kind::Cluster, 30, 40).await;
    println!("{compared:?}");
}
