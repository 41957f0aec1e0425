//! The contract between the locker and its stores.
//!
//! A store keeps two kinds of record, locks and processes, and changes each of them by atomic
//! compare-and-set. Everything else (waiting, giving up, deadlines) is not its business: **a backend
//! never waits for a lock, and reads no clock but its own store's.**
//!
//! **A backend never repeats what may have had an effect.** A request that the store has refused for
//! certain it may send again, within the request's own time; each crate argues where it does. The
//! client library of a Redis Cluster is the exception: it repeats, and `locker-redis` argues at each
//! operation why that is harmless (`connection.rs`).
//!
//! All methods are required; sugar lives in the facade. Contention is data: a refused request is
//! `Ok`. [`BackendError`] is for infrastructure only, and says whether the request may have had an
//! effect.
//!
//! # What every implementation must guarantee
//!
//! * *Atomic.* Each method is one atomic step at the store, per key.
//! * *Idempotent.* Everything may be repeated under the same owner hash: a create that already
//!   happened answers the same token, with the full TTL again; a release that already happened
//!   answers `Absent`.
//! * *Bounded.* A claim takes no effect once the store's clock has passed its `not_after`.
//! * *One-way death.* A process record is created once and is renewed only while it is there and
//!   unexpired. Its absence is final.
//! * *Cancel-safe.* A future that is dropped leaves the request sent or unsent, never half done,
//!   and disturbs no other request. A request that was not yet sent when its future was dropped is
//!   never sent afterwards.
//! * *Total.* Whatever bytes are found in the store, the answer is a typed error for that key.
//! * *Closing.* Dropping the backend closes its connections. A request that panics counts as
//!   unavailable with an unknown effect, and its backend is dropped.
//! * *Consistent.* What `take_over` answers as [`Held`] carries the liveness that the take-over has
//!   judged itself. [`Held::free_in`] is zero only if the holder is dead.

mod answer;
mod error;

pub use answer::{
    Birth, Claim, Claimed, Cursor, Force, Held, Hint, HintStream, KeptBy, Limits, Listing,
    Liveness, Observed, Page, Released, Renewal, Reply, Settlement, Standing, Watcher,
};
pub use error::{BackendError, Effect, ErrorKind};

use crate::identity::{Key, OwnerHash, ProcessHash};
use crate::record::ProcessData;
use crate::time::StoreTime;
use async_trait::async_trait;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long a store remembers the last token of a free lock, and a dead process: 30 days after the
/// token's *own time*, so that the store's clock has passed every token that is forgotten.
pub const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// The answer of a store: the value and the store's time when it was made.
pub type Answer<T> = Result<Reply<T>, BackendError>;

/// One connection to a store. See the [module](self) for what an implementation guarantees.
///
/// # Errors
///
/// Of every method: a [`BackendError`], when the store could not be asked or its answer is not known. It
/// says whether the request may have had an effect. That a lock is held, or not there, is no error.
///
/// # Cancel safety
///
/// Of every method: a future that is dropped leaves the request sent or unsent, never half done. What
/// was sent may have had its effect, and may be repeated under the same owner hash.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// What this store can keep. It costs nothing and never changes.
    fn limits(&self) -> Limits;

    /// Writes the lock record if there is none, or only an expired one, and the claimant's own
    /// process record is present (on stores where that costs no further round trip).
    ///
    /// The same owner again on an unexpired record: [`Claimed::Granted`] with the same token, and
    /// the full TTL counted anew. Free: one round trip.
    async fn try_create(&self, claim: &Claim) -> Answer<Claimed>;

    /// Replaces the record if it is still the observed one and its process is dead, judged by the
    /// store after the record is locked. Idempotent for the new owner, like
    /// [`try_create`](Self::try_create). It never replaces the record of a living process, whatever
    /// the caller observed.
    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed>;

    /// Sets the TTL of every one of these locks that is still its owner's, unexpired and unmarked;
    /// never shortens it. One round trip. The answers are in the order of `owners`.
    ///
    /// [`Standing::Mine`] means: the record lives at least `ttl` from when the store received this.
    async fn extend(
        &self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>>;

    /// Reads how these locks stand. One round trip. The answers are in the order of `owners`.
    async fn check(&self, owners: &[OwnerHash]) -> Answer<Vec<Result<Standing, BackendError>>>;

    /// Deletes the record if it is this owner's, keeps its token, and wakes the waiters. It works
    /// when other writes are refused.
    async fn release(&self, owner: &OwnerHash) -> Answer<Released>;

    /// Releases what an attempt of unknown outcome may have written, and says whether that attempt
    /// may still take effect afterwards.
    ///
    /// It sees through a write that is being committed, where [`release`](Self::release) need not:
    /// it answers [`Settlement::Final`] only if no claim of this owner with a `not_after` up to the
    /// given one can ever take effect any more.
    async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Answer<Settlement>;

    /// Takes a lock from its owner by an operator's will.
    ///
    /// [`Force::Mark`] leaves the record, which from then on refuses extension and is free when its
    /// owner has stopped and released it, when its process is dead, or when its TTL is over.
    /// [`Force::Now`] deletes at once and is outside S1.
    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released>;

    /// Reads a lock: from the primary, never from a stale replica. `None` when it is free, or its
    /// record has expired.
    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>>;

    /// Reads a process: from the primary.
    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness>;

    /// Creates the process record if there is none of that name, dead or alive.
    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth>;

    /// Renews the process record if it is there and unexpired; never creates it.
    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal>;

    /// Ends the process record at once, for ever, and wakes the waiters of every lock of that
    /// process. Repeating it is harmless.
    async fn retire_process(&self, process: &ProcessHash) -> Answer<()>;

    /// Held locks whose key begins with `prefix`, in pages, without blocking the store. A record
    /// that cannot be read is an `Err` item.
    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>>;

    /// Living processes, in pages, without blocking the store.
    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>>;

    /// Subscribes to the hints of a key, and enrols a waiter in its order. It resolves when the
    /// store has confirmed the subscription, so a release that comes later is not missed.
    ///
    /// A [`Watcher::Waiter`] is enrolled as long as its process lives or until the stream is
    /// dropped; a stream whose enrolment the store has removed ends. A [`Watcher::Observer`] has no
    /// place in the order and delays nobody.
    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError>;

    /// Deletes, in small batches, what has been free or dead for longer than `retention`: a lock
    /// only when its token's own time is that old. Answers how many records went.
    async fn sweep(&self, retention: Duration) -> Answer<u64>;
}

/// Makes connections to one store. The value itself is what the connections of one locker share.
///
/// It is called on the caller's runtime for the caller's side, and inside the Reporter's thread for
/// the two connections of the Reporter, so that the two sides never share a socket. What cannot be
/// opened a second time is refused by the first call.
#[async_trait]
pub trait Connect: fmt::Debug + Send + Sync + 'static {
    /// Opens a connection that belongs to the runtime on which this is called. That counts as an answer
    /// of the store's, or of a part of it: where the store is silent as a whole, none must be opened.
    ///
    /// # Errors
    ///
    /// [`BackendError`] of kind [`ErrorKind::Config`] or [`ErrorKind::Denied`] when repeating it is
    /// useless.
    async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError>;
}

/// Whose connection is being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The callers of acquire and release, on their own runtime.
    Caller,
    /// The Reporter's liveness reports, and nothing else.
    Reports,
    /// The Reporter's extends, checks and late releases.
    Upkeep,
}
