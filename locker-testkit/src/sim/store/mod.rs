//! The stores of the simulation. A model of another store is one more file here.
//!
//! A model may take its time: it can keep a request, tell when it wants to be woken, and answer
//! then. So commit delays, two shards or a fail-over are a model's own business, and the world
//! around it does not change.

mod embedded;

pub use embedded::Embedded;

use super::op::{Op, Outbox, Ticket};
use locker_core::{Key, OwnerHash, ProcessHash, Timestamp, Token};
use std::fmt;
use std::time::Duration;

/// A store, as the simulation plays it.
pub trait StoreModel: fmt::Debug {
    /// Moves its clock to this true moment, which is never earlier than the one before.
    fn advance(&mut self, at: Duration);

    /// Takes a request that has just arrived.
    fn receive(&mut self, ticket: Ticket, op: &Op, out: &mut Outbox);

    /// When it wants to be woken without a request, in true time.
    fn next_wake(&self) -> Option<Duration> {
        None
    }

    /// Goes on with what it keeps.
    fn wake(&mut self, out: &mut Outbox) {
        let _ = out;
    }

    /// The truth about a key, at its own present time: what the next request would meet.
    fn holder(&self, key: &Key) -> Option<Holder>;

    /// The truth about a process.
    fn is_alive(&self, process: &ProcessHash) -> bool;
}

/// The unexpired record of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Whose it is.
    pub owner: OwnerHash,
    /// Its token.
    pub token: Token,
    /// When it was last extended.
    pub extended_at: Timestamp,
    /// Whether an operator asks for it back.
    pub marked: bool,
    /// Whether its process lives, by the store's judgement.
    pub alive: bool,
}
