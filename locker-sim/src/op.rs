//! What travels between a process and the store: the contract's methods as values.

use super::fault::Fault;
use super::mark::Mark;
use locker_core::backend::{
    Birth, Claim, Claimed, Held, Hint, Liveness, Observed, Released, Renewal, Reply, Settlement,
    Standing,
};
use locker_core::{BackendError, Key, OwnerHash, ProcessHash, StoreTime};
use std::fmt;
use std::time::Duration;

/// A request.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "they are the methods of `Backend`")]
pub enum Op {
    TryCreate(Claim),
    TakeOver(Claim, Observed),
    Extend(Vec<OwnerHash>, Duration),
    Check(Vec<OwnerHash>),
    Release(OwnerHash),
    Settle(OwnerHash, StoreTime),
    Mark(OwnerHash),
    ReadLock(Key),
    ReadProcess(ProcessHash),
    CreateProcess(ProcessHash, Duration),
    RenewProcess(ProcessHash, Duration),
    RetireProcess(ProcessHash),
    Watch(Key, ProcessHash, Subscription),
    Unwatch(Subscription),
}

/// Whose hints they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subscription {
    /// The process.
    pub process: usize,
    /// Its life: a crash ends it.
    pub boot: u32,
    /// What in it waits.
    pub hand: u32,
}

/// The value of an answer.
#[derive(Debug)]
#[allow(missing_docs, reason = "they are the answers of `Backend`")]
pub enum Value {
    Claimed(Claimed),
    Standings(Vec<Result<Standing, BackendError>>),
    Released(Released),
    Settled(Settlement),
    Lock(Option<Held>),
    Liveness(Liveness),
    Born(Birth),
    Renewed(Renewal),
    Done,
}

/// The answers that are values of their own.
pub trait Told: Sized {
    /// This answer, if it is one of this type.
    ///
    /// # Errors
    ///
    /// The answer as it was, if it is of another type.
    fn of(value: Value) -> Result<Self, Value>;
}

macro_rules! told {
    ($($variant:ident: $type:ty),*) => {$(
        impl Told for $type {
            fn of(value: Value) -> Result<Self, Value> {
                match value {
                    Value::$variant(value) => Ok(value),
                    other => Err(other),
                }
            }
        }
    )*};
}

told!(
    Claimed: Claimed,
    Standings: Vec<Result<Standing, BackendError>>,
    Released: Released,
    Settled: Settlement,
    Lock: Option<Held>,
    Liveness: Liveness,
    Born: Birth,
    Renewed: Renewal
);

/// The answer as the method's own type. A store that answers another method is a broken model.
///
/// # Errors
///
/// The store's own.
pub fn told<T: Told>(answer: Answer) -> locker_core::backend::Answer<T> {
    let reply = answer?;
    let store_time = reply.store_time;
    match T::of(reply.value) {
        Ok(value) => Ok(Reply { value, store_time }),
        Err(other) => unreachable!("the store model answered {other:?}"),
    }
}

/// What comes back to the sender.
pub type Answer = Result<Reply<Value>, BackendError>;

/// What a store has to say after an event: answers to requests, and hints.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Answers, by the number of the request.
    pub answers: Vec<(Ticket, Answer)>,
    /// Hints to those who watch.
    pub hints: Vec<(Subscription, Hint)>,
    /// The request whose effect came to be in this step, if it is not the one that arrived.
    pub by: Option<Ticket>,
    /// A process that has come to live by what was committed just now, and had run out before.
    pub revived: Option<ProcessHash>,
    /// A process that was judged dead by what was committed just now, earlier, and whose record nobody
    /// has touched since.
    pub judged_dead: Option<ProcessHash>,
    /// What struck inside the store.
    pub faults: Vec<Fault>,
    /// What is worth noting.
    pub marks: Vec<Mark>,
}

/// The number of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub usize);

impl Op {
    /// Whether it may make a lock record.
    pub fn is_claim(&self) -> bool {
        matches!(self, Self::TryCreate(_) | Self::TakeOver(..))
    }

    /// The process whose record it may keep alive.
    pub fn process(&self) -> Option<&ProcessHash> {
        match self {
            Self::CreateProcess(process, _) | Self::RenewProcess(process, _) => Some(process),
            _ => None,
        }
    }

    /// The one lock that it is about, if it is about one.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::TryCreate(claim) | Self::TakeOver(claim, _) => Some(claim.key()),
            Self::Release(owner) | Self::Settle(owner, _) | Self::Mark(owner) => Some(owner.key()),
            Self::ReadLock(key) => Some(key),
            _ => None,
        }
    }

    /// The owners under whose names it acts, if it is one that must change nothing of others.
    pub fn scope(&self) -> Option<&[OwnerHash]> {
        match self {
            Self::Extend(owners, _) | Self::Check(owners) => Some(owners),
            Self::Release(owner) | Self::Settle(owner, _) | Self::Mark(owner) => {
                Some(std::slice::from_ref(owner))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TryCreate(claim) => write!(
                f,
                "create {} (not after {})",
                claim.owner,
                claim.not_after.as_micros()
            ),
            Self::TakeOver(claim, observed) => write!(
                f,
                "take over {} from {} (not after {})",
                claim.owner,
                observed.as_str(),
                claim.not_after.as_micros()
            ),
            Self::Extend(owners, _) => write!(f, "extend {owners:?}"),
            Self::Check(owners) => write!(f, "check {owners:?}"),
            Self::Release(owner) => write!(f, "release {owner}"),
            Self::Settle(owner, until) => write!(f, "settle {owner} to {}", until.as_micros()),
            Self::Mark(owner) => write!(f, "mark {owner}"),
            Self::ReadLock(key) => write!(f, "read {key}"),
            Self::ReadProcess(process) => write!(f, "read {process}"),
            Self::CreateProcess(process, _) => write!(f, "birth of {process}"),
            Self::RenewProcess(process, _) => write!(f, "renewal of {process}"),
            Self::RetireProcess(process) => write!(f, "retirement of {process}"),
            Self::Watch(key, ..) => write!(f, "watch {key}"),
            Self::Unwatch(_) => f.write_str("unwatch"),
        }
    }
}
