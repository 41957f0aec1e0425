//! The Postgres store keeps the contract.

mod fixture;

locker_testkit::conformance!(fixture::PostgresFixture);
