//! The simulation: a whole cluster in virtual time, from one seed.
//!
//! 2 to 6 processes, with 1 to 8 tasks each, want 1 to 3 locks. Each runs the machines of `locker-core`, the very code that
//! is shipped, in the way of the driver; the store is a model; between them is a network that
//! loses, delays, doubles and reorders. Processes are killed, stopped and stalled, their clocks
//! drift within A1, their users drop futures at any moment. After every event the invariants look
//! at everything, with the eyes of somebody who knows the true time. Then the faults end, and the
//! cluster must heal: everybody gets every lock once more, and nothing is left.
//!
//! | module | idea |
//! | --- | --- |
//! | [`plan`] | what a seed decides before the first event |
//! | [`agenda`] | what happens next: a heap of events in true time |
//! | [`world`] | plays the events, makes trouble, asks the invariants |
//! | [`campaign`] | many histories, on all processors |
//! | [`command`] | the command line: campaigns, long runs, replays |
//! | [`process`] | one process: the machines, run as the driver runs them |
//! | [`network`] | what becomes of a request and of its answer |
//! | [`store`] | the stores, one file each |
//! | [`invariants`] | what must be true, one file each |
//! | [`mark`] | the interleavings that must have been seen |
//! | [`history`] | what happened, as a digest and as text |
//!
//! A history has no I/O, no thread, no real clock and no other source of chance than its seed: *one
//! seed replays one history*.
//!
//! What is not played here is the driver itself, with tokio and its locks: `process` makes the same
//! steps in its place, and says file by file which. The line of waiters inside one process is left
//! out: every waiter asks the store for itself, which is the harder case for exclusion.
//!
//! ```
//! use locker_sim::run;
//!
//! let played = run(7, false);
//! assert!(played.violation.is_none());
//! assert_eq!(played.history.digest(), run(7, false).history.digest());
//! ```

// A panic is a mistake of the simulation itself: a name that it made up, an answer that a model owes.
#![allow(clippy::missing_panics_doc)]

pub mod agenda;
pub mod campaign;
pub mod clock;
pub mod command;
mod counted;
pub mod env;
pub mod fault;
pub mod history;
pub mod invariants;
pub mod mark;
mod marks;
pub mod network;
pub mod op;
pub mod plan;
pub mod process;
pub mod rng;
mod scaled;
pub mod store;
mod trouble;
pub mod world;

pub use fault::{Fault, Faults};
pub use history::{History, Tally};
pub use invariants::Violation;
pub use mark::{Mark, Marks};
pub use scaled::scaled;
pub use store::Kind;
pub use world::{Run, run};

/// The examples of the README run as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
