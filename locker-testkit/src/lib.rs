//! Proves that a store of Locker keeps the contract of `locker_core::backend`, and lets tests of
//! everything above a store say what the store does, and when.
//!
//! | module | idea |
//! | --- | --- |
//! | [`fixture`] | what a store's author writes: a fresh namespace per case, and its time |
//! | [`case`] | what a case holds: processes, time that passes, bounded waits |
//! | [`cases`] | the cases, by theme, in one list |
//! | [`memory`] | the fixture of the memory store, in virtual time |
//! | `behaviour` (feature `driver`) | what a locker over a store does for its users |
//! | `figures` (feature `figures`) | what a lock costs on a store, beside its bare client |
//! | `harness` (feature `harness`) | real processes and a real store under faults, and a TCP proxy |
//! | `servers` (feature `servers`) | servers of the networked stores, gone with the test |
//! | `soak` (feature `driver`) | cycles without end, their witness, and what they cost |
//! | `cancellation` (feature `driver`) | every future of a locker, dropped after every poll |
//! | [`wrap`] | stores around stores: one counts, one fails on demand, one lies |
//! | [`sim`] | a whole cluster in virtual time, from one seed |
//! | [`program`] | the cases as one program, many at a time, for stores that live by the second |
//! | [`honesty`] | whether a model of the simulation answers as its store does |
//! | [`exclusion`] | judges recorded grants: no overlap, and tokens that grow |
//!
//! A store's test file is three lines, once it has a fixture:
//!
//! ```
//! use locker_testkit::memory::MemoryFixture;
//!
//! locker_testkit::conformance!(MemoryFixture);
//! ```
//!
//! That makes one `#[test]` of every case. They share nothing, so they run in parallel. A server
//! that cannot be had fails every one of them, and says what to install: nothing is skipped.

// A failed expectation of a test kit is a panic whose message speaks to the author of the store.
#![allow(clippy::missing_panics_doc)]

#[cfg(feature = "driver")]
pub mod behaviour;
#[cfg(feature = "driver")]
pub mod cancellation;
pub mod case;
pub mod cases;
pub mod exclusion;
#[cfg(feature = "figures")]
pub mod figures;
pub mod fixture;
#[cfg(feature = "harness")]
pub mod harness;
pub mod honesty;
pub mod memory;
pub mod program;
mod quiet;
#[cfg(feature = "servers")]
pub mod servers;
#[cfg(feature = "driver")]
pub mod soak;
pub mod wrap;

pub use case::{Case, run};
pub use cases::{CASES, NamedCase};
pub use fixture::{Exceptions, Fixture, Impossible, Missing, Planted, Time};
#[doc(inline)]
pub use locker_sim::{self as sim, scaled};
pub use quiet::QUIET;

/// The examples of the README run as well; one of them starts servers.
#[cfg(all(doctest, feature = "servers"))]
#[doc = include_str!("../README.md")]
struct Readme;
