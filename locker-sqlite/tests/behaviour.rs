//! The behaviours of a locker, on the embedded store.

mod fixture;

locker_testkit::behaviours!(fixture::SqliteFixture);
