//! Real processes, a real store, and one fault at a time: what is left of the promises then.
//!
//! A *case* is one fault on one deployment. Four worker processes compete for two keys; every step
//! of their work first asks the guard whether it is valid, then leaves its token with a
//! [`witness`]. Meanwhile the case stops, kills, starves and deceives them. Afterwards the event
//! logs of all processes, which share the machine's boot clock, are judged.
//!
//! | module | idea |
//! | --- | --- |
//! | [`fault`] | what is done, and what must happen: the rows of the table |
//! | [`deployment`] | what it is done to: the columns, one file each; every cell is filled |
//! | [`cases`] | how it is done |
//! | [`scene`] | what a case holds: workers, a store, and what was found out |
//! | [`fleet`], [`worker`] | the worker processes, from outside and from inside |
//! | [`event`], [`log`] | what they say |
//! | [`machine`] | what the machine took from them |
//! | [`witness`] | what their steps leave behind |
//! | [`verdict`] | exclusion (V1), order of tokens (V2), overlapping steps (V3), stops in time |
//! | [`run`], [`report`] | running cases, and showing how they went |
//! | [`network`] | the way of one worker to its store, through proxies of its own |
//! | [`namespace`] | a worker on a machine of its own, and a wire on which packets are lost |
//! | [`proxy`] | a TCP proxy that delays, stalls, swallows, cuts and holds back |
//!
//! `locker-faults` is the program around all this.

#![allow(
    clippy::missing_errors_doc,
    reason = "what fails here ends a test, which shows the text"
)]

pub mod cases;
pub mod deployment;
pub mod event;
pub mod fault;
pub mod fleet;
mod judgement;
pub mod log;
pub mod machine;
pub mod namespace;
pub mod network;
pub mod order;
pub mod proxy;
pub mod report;
pub mod rng;
pub mod run;
pub mod scene;
pub mod times;
pub mod verdict;
pub mod witness;
pub mod worker;
