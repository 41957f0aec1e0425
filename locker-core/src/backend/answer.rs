//! What goes into a store and what comes out of it.

use crate::identity::{Key, OwnerHash, ProcessHash, Token};
use crate::record::{LockData, ProcessData};
use crate::time::StoreTime;
use futures_core::Stream;
use std::pin::Pin;
use std::time::Duration;

/// An answer and the store's own time when it was made.
///
/// A store of several servers shows the time of the one that answered. A claim that goes to a
/// server whose clock is further ahead than two request timeouts is answered
/// [`Claimed::TooLate`] once, with that server's time, and is in time when it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<T> {
    /// The answer.
    pub value: T,
    /// The store's clock; `None` where a store has none to show (etcd, which bounds late claims
    /// without a clock).
    pub store_time: Option<StoreTime>,
}

impl<T> Reply<T> {
    /// An answer that was made at this store time.
    pub fn at(store_time: StoreTime, value: T) -> Self {
        Self {
            value,
            store_time: Some(store_time),
        }
    }

    /// The same answer with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Reply<U> {
        Reply {
            value: f(self.value),
            store_time: self.store_time,
        }
    }
}

/// What is asked for by an acquisition. The key and the process are those of the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Under which owner hash.
    pub owner: OwnerHash,
    /// For how long the record shall live.
    pub ttl: Duration,
    /// The last moment of the store's clock at which this claim may take effect.
    pub not_after: StoreTime,
}

impl Claim {
    /// The lock that is asked for.
    pub fn key(&self) -> &Key {
        self.owner.key()
    }
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The claimant owns the lock, under this fencing token.
    Granted(Token),
    /// Somebody else does. Nothing was changed.
    Held(Held),
    /// There is no record to take over. Nothing was changed.
    Absent,
    /// The store's clock has passed `not_after`. Nothing was changed; ask again.
    TooLate,
    /// The claimant's own process record is gone: its incarnation has ended. Nothing was changed.
    OwnerDead,
}

/// A lock that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The record.
    pub data: LockData,
    /// The version of the record, for [`take_over`](super::Backend::take_over).
    pub observed: Observed,
    /// Whether the holder's process lives, if the store could tell in the same round trip.
    pub holder: Option<Liveness>,
    /// In how long, at the earliest, the lock can become free without its owner's doing: the
    /// smaller of what is left of the record and of the process.
    pub free_in: Duration,
    /// Whether an operator has asked for the lock back.
    pub marked: bool,
}

/// A version of a lock record, meaningful to its store only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observed(Box<str>);

impl Observed {
    /// A version in the store's own terms.
    pub fn new(version: impl Into<Box<str>>) -> Self {
        Self(version.into())
    }

    /// The store's own terms.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a process lives, by the store's own judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// Its record is there and unexpired.
    Alive(ProcessData),
    /// Its record is absent or expired. That is final.
    Dead,
    /// The store cannot tell now.
    Unknown,
}

/// How a lock stands for the owner that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is the asker's.
    Mine,
    /// It is the asker's, and an operator has asked for it back. It was not extended.
    Marked,
    /// There is no record, or only an expired one.
    Absent,
    /// It is somebody else's.
    Held(OwnerHash),
}

/// The answer to a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// The record was this owner's and is gone; or, after [`Force::Mark`](super::Force::Mark), it was this
    /// owner's and bears the mark, and the lock is free when the owner has stopped.
    Done,
    /// There was no record, or only an expired one.
    Absent,
    /// The record is somebody else's and was left alone.
    Held(OwnerHash),
}

/// The answer to settling an attempt of unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The attempt can take no effect any more.
    Final(Released),
    /// It still may: settle again later.
    Open(Released),
}

/// How an operator takes a lock from its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Force {
    /// Mark the record, so that the owner stops first.
    Mark,
    /// Delete it at once, whatever the owner is doing.
    Now,
}

/// The answer to the creation of a process record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Birth {
    /// It was created by this request and lives at least `valid_for` from when the store received
    /// it.
    Created {
        /// What the store guarantees; it may be more or less than was asked.
        valid_for: Duration,
    },
    /// There is, or was, a record of that name. Nothing was changed.
    Exists,
}

/// The answer to the renewal of a process record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It lives at least `valid_for` from when the store received this request.
    Renewed {
        /// What the store guarantees; it may be more or less than was asked.
        valid_for: Duration,
    },
    /// It is absent or expired, for ever. Nothing was changed.
    Gone,
}

/// Which part of a listing is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where the previous page ended; `None` for the first.
    pub after: Option<Cursor>,
    /// How many items at most. A store may answer fewer and still have more.
    pub limit: u32,
}

/// A place in a listing, meaningful to its store only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Box<str>);

impl Cursor {
    /// A place in the store's own terms.
    pub fn new(place: impl Into<Box<str>>) -> Self {
        Self(place.into())
    }

    /// The store's own terms.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// Who asks for hints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Watcher {
    /// A process that wants the lock: it gets a place in the order.
    Waiter(ProcessHash),
    /// Somebody who wants to know: no place, no delay to anybody.
    Observer,
}

/// A sign that trying again may be worth it. Hints may be lost, late, doubled or forged: they
/// change when something is tried, never what is true (S10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hint {
    /// The lock became free, or its holder retired.
    Free {
        /// How many enrolled processes stand before the receiver: the first tries at once, the
        /// k-th only 20 ms * k later, if the lock is still free. Zero for observers.
        place: u32,
    },
    /// The subscription was rebuilt: what happened meanwhile is unknown.
    Rebuilt,
}

/// The hints of one key, until it is dropped.
pub type HintStream = Pin<Box<dyn Stream<Item = Hint> + Send>>;

/// What a store can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The shortest TTL it keeps.
    pub least_ttl: Duration,
    /// TTLs are whole multiples of this.
    pub ttl_granularity: Duration,
    /// How many locks one `extend` or `check` may name. At least 1.
    pub batch: usize,
    /// Who ends a lock that is not extended.
    pub lock_ttl_kept_by: KeptBy,
    /// Whether `watch` ever hints; if not, waiters poll.
    pub hints: bool,
    /// Whether expiry goes by a wall clock that may be stepped (A3).
    pub wall_clock_expiry: bool,
    /// Whether the store reads the very clock of the owner, so that no drift is possible.
    pub shares_owner_clock: bool,
    /// After how long without a report a process is dead, where the store sees more than reports and
    /// is told by its configuration to wait less long for them. It then stands in the place of the
    /// liveness TTL, at the owner as well as at the store. `None` where the TTL alone decides.
    pub dead_after: Option<Duration>,
    /// How often a waiter may ask whether the holder is dead at next to no cost; `None` where that
    /// costs a request and `free_in` is all there is. The embedded store asks the kernel.
    pub cheap_death_poll: Option<Duration>,
}

/// Who ends a lock that is not extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeptBy {
    /// The store itself: the record expires.
    Store,
    /// The Reporter, which deletes it; the store's net under this is the process's own liveness.
    Reporter,
}
