//! What must be true after every event, one promise a file.
//!
//! An invariant sees everything, with the true time: the processes from inside, the store as its
//! next request would meet it, and the facts of the event. It keeps notes of its own, and never
//! trusts what a process believes.

mod death;
mod exclusion;
mod fencing;
mod idempotence;
mod liveness;
mod orphans;
mod scope;
mod sticky;
mod success;
mod take_over;

use super::op::{Answer, Op, Value};
use super::process::Process;
use super::store::{Holder, StoreModel};
use locker_core::backend::{Claimed, Reply};
use locker_core::machine::Tenure;
use locker_core::{Instant, Key, OwnerHash, ProcessHash, Token};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A promise that is watched.
pub trait Invariant: fmt::Debug {
    /// Looks at the world after an event.
    ///
    /// # Errors
    ///
    /// What was violated.
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation>;

    /// Looks at the world after the last event.
    ///
    /// # Errors
    ///
    /// What was violated.
    fn at_end(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let _ = view;
        Ok(())
    }
}

/// All of them, fresh.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(exclusion::Exclusion),
        Box::<fencing::Fencing>::default(),
        Box::new(take_over::TakeOver),
        Box::<death::Death>::default(),
        Box::new(scope::Scope),
        Box::<sticky::Sticky>::default(),
        Box::<success::Success>::default(),
        Box::new(idempotence::Idempotence),
        Box::<orphans::Orphans>::default(),
        Box::new(liveness::Liveness),
    ]
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub promise: &'static str,
    /// How.
    pub how: String,
}

impl Violation {
    fn new(promise: &'static str, how: impl Into<String>) -> Self {
        Self {
            promise,
            how: how.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken: {}", self.promise, self.how)
    }
}

/// The world, as an invariant sees it.
#[derive(Debug)]
pub struct View<'a> {
    /// The true time.
    pub at: Duration,
    /// Whether the faults have ended.
    pub healed: bool,
    /// The processes.
    pub processes: &'a [Process],
    /// The store.
    pub store: &'a dyn StoreModel,
    /// The keys.
    pub keys: &'a [Key],
    /// What happened in this event.
    pub facts: &'a [Fact],
}

impl<'a> View<'a> {
    /// Every tenure that a running process has, with that process's clock.
    pub fn tenures(&self) -> impl Iterator<Item = (HandRef, Instant, &'a Arc<Tenure>)> + use<'a> {
        let at = self.at;
        self.processes
            .iter()
            .filter(|process| process.up)
            .flat_map(move |process| {
                let now = process.clock_at(at);
                process.hands.iter().filter_map(move |(id, hand)| {
                    let hand_ref = HandRef::new(process.index, process.boot, *id);
                    Some((hand_ref, now, hand.tenure()?))
                })
            })
    }
}

/// Whether a tenure is valid, without the loss that a look of its owner would make final.
fn is_valid(tenure: &Tenure, now: Instant) -> bool {
    tenure.valid_until().is_some_and(|until| now < until)
}

/// One acquisition of one life of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandRef {
    process: usize,
    boot: u32,
    hand: u32,
}

impl HandRef {
    /// This hand.
    pub fn new(process: usize, boot: u32, hand: u32) -> Self {
        Self {
            process,
            boot,
            hand,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Fact {
    /// The record of a key was changed, or could have been.
    Record {
        /// Which key.
        key: usize,
        /// The record before.
        before: Option<Holder>,
        /// The record after.
        after: Option<Holder>,
        /// What was asked; nothing if the store went on by itself.
        by: Option<Op>,
    },
    /// A process record was created or renewed, or could have been.
    Process {
        /// Whose.
        process: ProcessHash,
        /// Whether it was alive before.
        before: bool,
        /// Whether it is alive after.
        after: bool,
    },
    /// A claim was refused because of this owner.
    Refused {
        /// Who asked.
        claimant: OwnerHash,
        /// Who holds it.
        because_of: OwnerHash,
    },
    /// A claim, or another request, was answered otherwise.
    Answered,
    /// A caller got a guard.
    Granted {
        /// Where.
        hand: HandRef,
        /// Under which name.
        owner: OwnerHash,
        /// With which token.
        token: Token,
    },
    /// A job asked whether its lock is good.
    Read {
        /// Where.
        hand: HandRef,
        /// What it was told.
        valid: bool,
    },
    /// A loss was told.
    Lost {
        /// Whose.
        owner: OwnerHash,
    },
    /// A job was told that it has completed.
    Completed {
        /// Under which name.
        owner: OwnerHash,
        /// Whether the store has confirmed the release.
        confirmed: bool,
        /// Whether its lock was good when it ended.
        sound: bool,
    },
    /// A job was told that it has lost its lock, by the release.
    Late {
        /// Under which name.
        owner: OwnerHash,
        /// Whether its lock was good when it ended.
        sound: bool,
    },
    /// A process has forgotten an owner hash: nothing of it is left.
    Forgotten {
        /// Which.
        owner: OwnerHash,
    },
    /// A process has ended by its own will.
    Exited {
        /// Which.
        process: usize,
        /// Which life of it.
        boot: u32,
    },
}

impl Fact {
    /// What an answer of the store says.
    pub fn answered(op: &Op, answer: &Answer) -> Self {
        match (op, answer) {
            (
                Op::TryCreate(claim) | Op::TakeOver(claim, _),
                Ok(Reply {
                    value: Value::Claimed(Claimed::Held(held)),
                    ..
                }),
            ) => Self::Refused {
                claimant: claim.owner.clone(),
                because_of: held.data.owner.clone(),
            },
            _ => Self::Answered,
        }
    }

    /// The new owner of a key, if this is a grant by the store.
    fn new_owner(&self) -> Option<&Holder> {
        match self {
            Self::Record {
                before,
                after: Some(after),
                ..
            } => {
                let same = before
                    .as_ref()
                    .is_some_and(|b| b.owner == after.owner && b.token == after.token);
                (!same).then_some(after)
            }
            _ => None,
        }
    }
}
