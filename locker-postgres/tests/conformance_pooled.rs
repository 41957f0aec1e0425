//! The contract is kept through a pooler in transaction mode.

mod fixture;

locker_testkit::conformance!(fixture::PooledFixture);
