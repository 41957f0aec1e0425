//! What the author of a store gives to the conformance cases: a namespace of their own, and a way
//! to let time pass. What the cases do with it is not the fixture's business.

use async_trait::async_trait;
use locker_core::{Connect, Key, ManualClock};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One fresh, empty namespace of one store, for one case.
///
/// The value is a guard: dropping it removes the namespace, as far as that can be done from
/// `drop`. Two fixtures never see each other's records, so cases run in parallel.
#[async_trait]
pub trait Fixture: fmt::Debug + Send + Sync + 'static {
    /// Opens a namespace that nobody else has ever used.
    ///
    /// # Errors
    ///
    /// [`Missing`] when the store cannot be had on this machine. The case fails with its text.
    async fn open() -> Result<Self, Missing>
    where
        Self: Sized;

    /// Another process over this namespace: a value that shares the store with the earlier ones
    /// and nothing else, neither connections nor state. Nothing has to be opened yet.
    fn process(&self) -> Arc<dyn Connect>;

    /// The smallest TTL that is sensible on this store: long enough that a handful of requests fits
    /// into three of them on a busy machine. All waits are counted in it.
    fn unit(&self) -> Duration;

    /// How time passes for this store.
    fn time(&self) -> Time;

    /// Puts something under the key that no locker of this release writes, past the store's own
    /// code, as if another program had written it (S11).
    ///
    /// # Errors
    ///
    /// [`Impossible`] when nothing of the kind can ever be in this store. A fixture that merely
    /// *could not be bothered* would hide what the case is for: the reason is part of the review.
    async fn plant(&self, key: &Key, planted: Planted) -> Result<(), Impossible>;

    /// Where the contract leaves this store a choice, what it chose. [`Exceptions::NONE`] is the
    /// plain contract.
    fn exceptions(&self) -> Exceptions;
}

/// How time passes for a store.
#[derive(Debug, Clone)]
pub enum Time {
    /// The store lives by this clock: an hour costs nothing.
    Virtual(Arc<ManualClock>),
    /// The store has a clock of its own, and waiting is waiting.
    Real,
}

/// Why there is no store to test. It fails the case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    what: String,
    install: String,
}

impl Missing {
    /// What is missing, and what the reader should install, start or set.
    pub fn new(what: impl Into<String>, install: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            install: install.into(),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. To run these tests: {}", self.what, self.install)
    }
}

impl std::error::Error for Missing {}

/// Something that is no record of this release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Planted {
    /// Bytes that are no record at all, or a value of the wrong type.
    Garbage,
    /// An unexpired record of a format that only a later release can read.
    NewerFormat,
    /// A well-formed, unexpired record whose owner hash names another key.
    OtherKey,
    /// An unexpired record whose owner hash does not parse.
    MalformedOwner,
    /// An unexpired record whose token is not a positive number.
    BadToken,
}

impl Planted {
    /// Everything that can be planted.
    pub const ALL: [Self; 5] = [
        Self::Garbage,
        Self::NewerFormat,
        Self::OtherKey,
        Self::MalformedOwner,
        Self::BadToken,
    ];
}

/// Why something cannot be in a store whatever anybody does, in a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impossible(pub &'static str);

/// What a store does differently where the contract allows it, each with its reason, in a sentence
/// that the store's README repeats. The cases check the reason, and what must hold all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceptions {
    /// The store shows no time and refuses late claims by other means than a clock (etcd).
    pub no_clock: Option<&'static str>,
    /// The store cannot see in the same round trip whether the claimant's own process is dead
    /// (Redis Cluster). Such a grant may be taken over at once.
    pub dead_claimants_unseen: Option<&'static str>,
    /// The TTL of a process is set at its birth, and every renewal renews that one, whatever it asks
    /// for (etcd). It promises no more than either.
    pub fixed_process_ttl: Option<&'static str>,
}

impl Exceptions {
    /// The plain contract.
    pub const NONE: Self = Self {
        no_clock: None,
        dead_claimants_unseen: None,
        fixed_process_ttl: None,
    };
}
