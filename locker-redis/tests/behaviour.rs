//! The behaviours of a locker, on a Redis server alone.

mod common;
mod fixture;

locker_testkit::behaviours!(fixture::Standalone);
