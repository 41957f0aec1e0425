//! Stores around stores: each is a [`Connect`](locker_core::Connect) around another one, and changes one thing about it.
//!
//! | wrapper | what it changes |
//! | --- | --- |
//! | [`Counted`] | nothing; it counts the requests of each method |
//! | [`Faulty`] | when and whether a request, or its answer, arrives |
//! | [`Twisted`] | what one method means: a broken store, to prove the cases |
//!
//! The first two look at requests from outside, whatever they say. They share one [`Around`] per
//! method call, so a new method of the contract is added here once.

mod around;
mod counted;
mod fault;
mod twist;

pub use around::{Around, Call, Method, Request, Wrapped, WrappedConnect};
pub use counted::{Counted, Counts};
pub use fault::{Fault, Faults, Faulty, HeldRequest, Scope};
pub use twist::{Twist, Twisted};
