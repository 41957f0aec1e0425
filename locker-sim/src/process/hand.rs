//! What a process has, or may have, at the store: the simulation's registry.
//!
//! As in the driver, an owner hash is in exactly one hand from before its first byte is sent until
//! nothing of it is left: an acquisition, a held lock, or a lock on its way back.

use super::super::op::Ticket;
use locker_core::backend::Hint;
use locker_core::deadline::Deadline;
use locker_core::machine::{Acquire, Release, Tenure};
use locker_core::{Instant, OwnerHash, ProcessHash, StoreTime, Token};
use std::sync::Arc;
use std::time::Duration;

/// A confirmed incarnation of a process.
#[derive(Debug)]
pub struct Life {
    /// Its name at the store.
    pub process: ProcessHash,
    /// Until when it lives by its own clock.
    pub deadline: Arc<Deadline>,
    /// When, in true time, its birth was asked for: that is where its deadline is counted from, so
    /// whatever broke later may have broken under it.
    pub since: Duration,
}

/// One owner hash, and where it stands.
#[derive(Debug)]
pub struct Hand {
    /// Under which name.
    pub owner: OwnerHash,
    /// Of which incarnation: as long as a hand is there, its record is not retired.
    pub life: Arc<Life>,
    /// The task that asked for it.
    pub task: usize,
    /// The request whose answer is awaited.
    pub in_flight: Option<Ticket>,
    /// When the machine wants to be woken.
    pub due: Option<Instant>,
    /// Where it stands.
    pub stage: Stage,
}

/// Where an owner hash stands.
#[derive(Debug)]
pub enum Stage {
    /// It is being acquired.
    Asking(Asking),
    /// It is held.
    Held(Held),
    /// It is on its way back.
    Leaving(Leaving),
}

/// An acquisition.
#[derive(Debug)]
pub struct Asking {
    /// The machine, but for the moment in which it takes a step.
    pub machine: Option<Acquire>,
    /// The latest `not_after` that was sent and not answered for certain.
    pub open: Option<StoreTime>,
    /// Whether the store was asked for hints.
    pub watching: Watching,
    /// Until when another incarnation is waited for, should this one end.
    pub life_by: Instant,
    /// Whether a hint has reached it.
    pub hinted: bool,
    /// The newest hint that came while a request was under way.
    pub hint: Option<Hint>,
    /// Whether its last take-over was refused by the store.
    pub refused: bool,
}

/// How an acquisition stands with the hints of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watching {
    /// Not asked for.
    No,
    /// Asked for.
    Asked,
    /// Confirmed.
    Yes,
}

/// A held lock.
#[derive(Debug)]
pub struct Held {
    /// Until when it is good.
    pub tenure: Arc<Tenure>,
    /// Its fencing token.
    pub token: Token,
    /// What earlier attempts may still leave.
    pub unsettled: Option<StoreTime>,
    /// Whether the Reporter has deleted the record of a lost lock.
    pub let_go: bool,
    /// Whether the loss was told.
    pub announced: bool,
}

/// A lock, or what an attempt may have left, on its way back.
#[derive(Debug)]
pub struct Leaving {
    /// The machine, but for the moment in which it takes a step.
    pub machine: Option<Release>,
    /// When the record has run out by itself; zero if there was only an attempt.
    pub gone_by: Instant,
    /// What attempts may still leave.
    pub unsettled: Option<StoreTime>,
    /// Whether the Reporter sees to it; before that, the user's task does.
    pub by_reporter: bool,
    /// Whether the user's task waits for the outcome.
    pub awaited: bool,
}

impl Hand {
    /// Whether it waits, and the store has confirmed that it will be told.
    pub fn is_told(&self) -> bool {
        matches!(&self.stage, Stage::Asking(asking) if asking.watching == Watching::Yes)
    }

    /// The tenure, if the lock is held.
    pub fn tenure(&self) -> Option<&Arc<Tenure>> {
        match &self.stage {
            Stage::Held(held) => Some(&held.tenure),
            Stage::Asking(_) | Stage::Leaving(_) => None,
        }
    }
}
