//! The Redis store keeps the contract, on a server alone.

mod common;
mod fixture;

locker_testkit::conformance!(fixture::Standalone);
