//! What must be true after every event, one promise a file.
//!
//! An invariant sees everything, with the true time: the processes from inside, the store as its
//! next request would meet it, and the facts of the event. It keeps notes of its own, and never
//! trusts what a process believes.

mod dead_holders;
mod death;
mod decoding;
mod exclusion;
mod fencing;
mod guards;
mod idempotence;
mod identity;
mod liveness;
mod orphans;
mod promptness;
mod scope;
mod stalls;
mod sticky;
mod storms;
mod success;
mod take_over;

use super::agenda::Part;
use super::op::{Answer, Op, Subscription, Value};
use super::plan::Plan;
use super::process::Process;
use super::store::{Holder, Kind, StoreModel};
use locker_core::backend::{Claimed, Reply};
use locker_core::machine::Tenure;
use locker_core::{ErrorKind, Instant, Key, OwnerHash, ProcessHash, Token};
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
        Box::<take_over::TakeOver>::default(),
        Box::<death::Death>::default(),
        Box::<scope::Scope>::default(),
        Box::<sticky::Sticky>::default(),
        Box::<success::Success>::default(),
        Box::new(idempotence::Idempotence),
        Box::<identity::Identity>::default(),
        Box::<decoding::Decoding>::default(),
        Box::new(guards::Guards),
        Box::<storms::Storms>::default(),
        Box::new(stalls::Stalls),
        Box::<dead_holders::DeadHolders>::default(),
        Box::<promptness::Promptness>::default(),
        Box::new(liveness::Liveness),
        Box::<orphans::Orphans>::default(),
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
    /// What the seed has decided.
    pub plan: &'a Plan,
    /// When an assumption broke, if one did.
    pub breach: Option<Duration>,
    /// The incarnation that was cloned, if one was: two processes act under its name (against A6).
    pub cloned: Option<&'a ProcessHash>,
    /// The processes.
    pub processes: &'a [Process],
    /// What they hold: gathered once for all that look.
    pub tenures: Vec<Held<'a>>,
    /// The store.
    pub store: &'a dyn StoreModel,
    /// The keys.
    pub keys: &'a [Key],
    /// What happened in this event.
    pub facts: &'a [Fact],
}

impl View<'_> {
    /// Whether this owner is of an incarnation that was cloned.
    pub fn is_cloned(&self, owner: &OwnerHash) -> bool {
        self.cloned.is_some_and(|cloned| cloned == owner.process())
    }

    /// Whether a clone may have left a record for as long as the other lives: where no TTL of the
    /// store's own is the net below (etcd), what one of them has forgotten the other keeps alive (A6).
    pub fn leaves_a_clones_record(&self) -> bool {
        self.cloned.is_some() && self.plan.kind == Kind::Etcd
    }

    /// Whether a broken assumption is still at work: what it does to those who were there before is
    /// over when the TTLs are that they had.
    pub fn is_breached(&self) -> bool {
        let timing = &self.plan.timing;
        let lasts = timing.lock_ttl + timing.liveness_ttl;
        self.breach.is_some_and(|breach| self.at <= breach + lasts)
    }
}

/// Every tenure that a running process has at this true time, with that process's clock, and since when
/// its incarnation is confirmed.
pub(super) fn tenures(processes: &[Process], at: Duration) -> Vec<Held<'_>> {
    let running = processes.iter().filter(|process| process.up);
    running
        .flat_map(|process| {
            let now = process.clock_at(at);
            process.hands.iter().filter_map(move |(id, hand)| {
                Some(Held {
                    hand: HandRef::new(process.index, process.boot, *id),
                    now,
                    since: hand.life.since,
                    tenure: hand.tenure()?,
                })
            })
        })
        .collect()
}

/// A tenure, as an invariant sees it.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    hand: HandRef,
    now: Instant,
    since: Duration,
    tenure: &'a Arc<Tenure>,
}

impl Held<'_> {
    /// Whether it is valid, without the loss that a look of its owner would make final.
    fn is_valid(&self) -> bool {
        is_valid(self.tenure, self.now)
    }

    /// Whether an assumption broke under its incarnation: it may be valid where it should not.
    fn is_excused(&self, view: &View<'_>) -> bool {
        if view.is_cloned(self.tenure.owner()) {
            return true;
        }
        view.is_breached() && view.breach.is_some_and(|breach| self.since <= breach)
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

    /// As whom the store knows it, if it waits.
    fn subscription(self) -> Subscription {
        Subscription {
            process: self.process,
            boot: self.boot,
            hand: self.hand,
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
    /// A renewal was committed that had been executed in time, and its process had run out meanwhile.
    Revived {
        /// Whose it was.
        process: ProcessHash,
    },
    /// A claim was refused because of this owner.
    Refused {
        /// Who asked.
        claimant: OwnerHash,
        /// Who holds it.
        because_of: OwnerHash,
    },
    /// A claim was granted, or its bytes could not be read.
    Claimed {
        /// On which key.
        key: Key,
        /// Whether it was granted.
        granted: bool,
        /// Whether what was found is no record.
        corrupt: bool,
    },
    /// Bytes were planted under a key, or cleaned up.
    Planted {
        /// Which keys hold what is no record.
        keys: Vec<Key>,
    },
    /// An acquisition began.
    Asked {
        /// Under which name.
        owner: OwnerHash,
    },
    /// A request was sent.
    Sent {
        /// By which process.
        process: usize,
        /// In which life of it.
        boot: u32,
        /// By which part of it.
        part: Part,
    },
    /// An acquisition ended because somebody else holds the lock.
    TurnedAway {
        /// Whose it was.
        owner: OwnerHash,
        /// Whether the store calls the holder dead.
        holder_dead: bool,
        /// Whether the store has refused to let its lock be taken over.
        refused: bool,
    },
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
    pub fn answered(op: &Op, answer: &Answer) -> Option<Self> {
        let (Op::TryCreate(claim) | Op::TakeOver(claim, _)) = op else {
            return None;
        };
        let claimed = |granted, corrupt| Self::Claimed {
            key: claim.key().clone(),
            granted,
            corrupt,
        };
        Some(match answer {
            Ok(Reply {
                value: Value::Claimed(Claimed::Held(held)),
                ..
            }) => Self::Refused {
                claimant: claim.owner.clone(),
                because_of: held.data.owner.clone(),
            },
            Ok(Reply {
                value: Value::Claimed(Claimed::Granted(_)),
                ..
            }) => claimed(true, false),
            Err(error) => claimed(false, error.kind() == ErrorKind::Corrupt),
            Ok(_) => return None,
        })
    }

    /// The new owner of a key, if this is a grant by the store.
    pub(super) fn new_owner(&self) -> Option<&Holder> {
        match self {
            // What a store has back that had forgotten it is no grant.
            Self::Record {
                before,
                after: Some(after),
                by: Some(by),
                ..
            } if by.is_claim() => {
                let same = before
                    .as_ref()
                    .is_some_and(|b| b.owner == after.owner && b.token == after.token);
                (!same).then_some(after)
            }
            _ => None,
        }
    }
}
