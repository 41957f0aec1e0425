//! The etcd store keeps the contract.

mod fixture;

locker_testkit::conformance!(fixture::EtcdFixture);
