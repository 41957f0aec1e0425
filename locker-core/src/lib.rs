//! The core of Locker: what a lock *is*, without any I/O, clock or runtime.
//!
//! | module | idea |
//! | --- | --- |
//! | [`identity`] | keys, process hashes, owner hashes, fencing tokens |
//! | [`record`] | what a store keeps about a lock and about a process |
//! | [`time`] | the owner's clock, the store's clock, and the promise that neither is confused |
//! | [`timing`] | all durations in one validated type, and the formula for "valid until" |
//! | [`deadline`] | the atomic word that says whether an owner may still act as the owner |
//! | [`backend`] | the contract that every store fulfils |
//! | [`machine`] | the four state machines: acquire, hold, release, report |
//! | [`memory`] | the store of unit tests, on a clock that can be advanced |
//!
//! Nothing here reads a clock: `now` is always an argument. Nothing here waits: a machine answers
//! with what to do next. That is why the same code runs under the driver of `distributed-locker`
//! and under a simulator that plays a hundred thousand histories in a minute or two.

pub mod backend;
pub mod deadline;
pub mod identity;
pub mod machine;
pub mod memory;
pub mod record;
pub mod time;
pub mod timing;

pub use backend::{Backend, BackendError, Connect, Effect, ErrorKind};
pub use identity::{Host, InvalidIdentity, Key, OwnerHash, ProcessHash, Token, Trace};
pub use record::{LockData, ProcessData};
pub use time::{Clock, Instant, ManualClock, StoreTime, Timestamp};
pub use timing::{InvalidTiming, Timing};
