//! Gathers what several tasks ask of a store while a request is in flight, and sends it as one
//! batch.
//!
//! A store implements [`Carrier`]: how one operation is sent, and how many are sent together. Its
//! [`Gate`] decides what travels with what. What the operations are, and what becomes of an attempt
//! of unknown outcome, is not this crate's business.
//!
//! # The rules
//!
//! * **A lone operation never waits.** If nothing is in flight, the caller's own future sends it:
//!   no queue, no other task.
//! * **What gathers meanwhile is driven by a task of the gate**, never by the future of a caller.
//! * **A batch holds a key at most once**, and at most [`Limits::batch`] operations. While an
//!   operation of a key is under way, the next one of that key waits, so they reach the store in
//!   the order in which they were asked for; unless the caller of a lone one lets it lie (below).
//! * **What waits may be shared out among several flights** ([`Limits::together`]): while the store works
//!   on one batch the answers of another are read. Few operations gather for few flights
//!   ([`Limits::light_flights`]).
//! * **The next batch leaves as soon as as many operations were asked for as the last one has answered**,
//!   and at the latest when everybody who was ready has run a few times; few operations wait until another
//!   batch has landed.
//! * **A queued operation whose caller goes away is withdrawn**, under the lock of the queue. It is
//!   never sent. Once sent, an answer that nobody waits for is dropped, and a request for whose
//!   answers nobody waits any more is given up.
//! * **Every operation has an answer of its own.** A batch that is refused as a whole, for certain
//!   and over a sound connection, is sent again apart: one of its members is to blame, and the
//!   others shall not suffer for it.
//!
//! # The argument
//!
//! *Why is nothing sent after its caller left?* A queued operation lies in the queue, by value, and
//! nowhere else. The future of its caller holds its place; dropping that future takes the operation
//! out, under the lock. The task that drives the queue takes operations out under the same lock. So
//! exactly one of the two gets it: either it was withdrawn, and there is nothing that could be sent;
//! or it counts as sent, from the moment it is taken, a few instructions before the bytes leave.
//! That is the moment which the contract of a store asks for: what was taken is of unknown outcome
//! to a caller who left, and is settled like any other. An operation that is sent apart is taken
//! out of the queue a second time, by the same rule.
//!
//! *What if the future of a lone operation is dropped?* Then the request is dropped with it, sent or
//! unsent, and the carrier sees to it that it is never half done. A mark says that it is under way;
//! its drop clears the mark and wakes the task if somebody waits behind it. Nobody else is harmed:
//! only operations of the same key wait for the mark, all others go past it.
//!
//! *What if the future of a lone operation is neither polled nor dropped?* A caller may hold it in a
//! `select!` whose other branch awaits the same gate. Operations of other keys go past it anyway;
//! those of its own key wait for [`Limits::patience`], and then go past it too. Both orders are right then:
//! they were asked for at the same time as the one that has no answer yet.
//!
//! *What if the task dies?* It dies with its runtime, or when the gate is dropped. What was taken is
//! answered as of unknown effect, what waits as not applied, and so is whatever is asked afterwards.
//! A panic of the carrier ends the request and not the task: it is caught, and answered as of
//! unknown effect.
//!
//! *Why is a refused batch sent apart, and all at once?* One after another, 64 operations would cost
//! 64 round trips, and everybody behind them would pay; if the store stalled meanwhile, each would
//! pay a time-out of its own. Side by side they cost one more round trip where a connection carries
//! many requests, whatever number of them is to blame. It is not done where it cannot help: after an
//! error of unknown effect the operations may have happened, after one that breaks the connection
//! ([`ErrorKind::breaks_connection`]) no member is to blame, and a store that has too much to do
//! ([`Carrier::is_overload`]) shall not get 64 requests for one. Then every member gets the error, and
//! its machine decides.
//!
//! # Example
//!
//! ```
//! use locker_coalesce::{Carrier, Gate, Limits};
//! use locker_core::{BackendError, Key};
//!
//! /// A store that is asked for the length of keys.
//! struct Lengths;
//!
//! impl Carrier for Lengths {
//!     type Op = Key;
//!     type Answer = usize;
//!
//!     fn key(op: &Key) -> impl std::hash::Hash {
//!         op
//!     }
//!
//!     async fn carry_one(&self, op: &Key) -> Result<usize, BackendError> {
//!         Ok(op.as_str().len())
//!     }
//!
//!     async fn carry(
//!         &self,
//!         ops: &[Key],
//!     ) -> Result<Vec<Result<usize, BackendError>>, BackendError> {
//!         Ok(ops.iter().map(|op| Ok(op.as_str().len())).collect())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let gate = Gate::new(Lengths, Limits::default());
//! assert_eq!(gate.ask(Key::new("nightly-report")?).await?, 14);
//! # Ok(())
//! # }
//! ```
//!
//! [`ErrorKind::breaks_connection`]: locker_core::ErrorKind::breaks_connection

mod carrier;
mod driver;
mod error;
mod gate;
mod queue;

pub use carrier::{Carrier, Limits};
pub use gate::Gate;
