//! The etcd store keeps the contract for a user with the rights that the README grants, and no
//! others.

mod fixture;

locker_testkit::conformance!(fixture::UserFixture);
