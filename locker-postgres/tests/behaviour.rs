//! The behaviours of a locker, on Postgres.

mod fixture;

locker_testkit::behaviours!(fixture::PostgresFixture);
