//! The etcd store keeps the contract on a cluster of three.

mod fixture;

locker_testkit::conformance!(fixture::ClusterFixture);
