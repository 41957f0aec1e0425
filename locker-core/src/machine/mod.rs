//! The state machines of the locker: what to ask the store next, and what its answers mean.
//!
//! | machine | from | to |
//! | --- | --- | --- |
//! | [`acquire`] | a key that is wanted | a grant, or who holds it |
//! | [`hold`] | a grant | the loss, if it comes to that |
//! | [`release`] | a lock nobody wants to hold any more | a record that is gone for certain |
//! | [`report`] | a process that begins | the end of its incarnation |
//!
//! A machine has at most one request in flight and at most one deadline. It is moved by value: a
//! step consumes it and gives it back together with what to do, so a machine that has ended cannot
//! be fed, and one that is waiting for a reply cannot be asked for another request. An early wake
//! is harmless; so is a late one, because `now` is always looked at afresh.
//!
//! A driver runs a machine like this:
//!
//! ```text
//! let mut step = Machine::begin(now, …);
//! loop {
//!     step = match step {
//!         Step::Call(machine, request) => send it; machine.on_…(now, answer)
//!         Step::Sleep(machine, until)  => wait;    machine.on_wake(now)
//!         Step::Done(result)           => break result
//!     }
//! }
//! ```
//!
//! A request that was handed out counts as sent at the `now` of its step: earlier than the truth,
//! which is the safe side (see [`Timing::valid_until`](crate::Timing::valid_until)).

pub mod acquire;
pub mod hold;
mod jitter;
pub mod release;
pub mod report;
pub mod tenure;

pub use acquire::Acquire;
pub use hold::Hold;
pub use jitter::Jitter;
pub use release::Release;
pub use report::Report;
pub use tenure::{Loss, LossReason, Tenure};

use crate::time::Instant;

/// What to do next with a machine of type `M` that asks `R` and ends in `D`.
#[derive(Debug)]
#[must_use = "a machine that is dropped forgets what it has at the store"]
pub enum Step<M, R, D> {
    /// Send this request, and feed its answer.
    Call(M, R),
    /// Wake it then, or earlier.
    Sleep(M, Instant),
    /// It has ended.
    Done(D),
}
