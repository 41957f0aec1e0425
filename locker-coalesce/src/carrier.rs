//! What a store brings along: how its operations are sent.

use locker_core::BackendError;
use std::future::Future;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::time::Duration;

/// Sends the operations of one store over one connection.
///
/// A carrier repeats nothing that may have been done, and waits for no lock, like the
/// [`Backend`](locker_core::Backend) that it belongs to, and it sends at once: what has to wait for a
/// free connection inside of a carrier has been sent as far as the gate knows, and cannot be withdrawn
/// any more.
///
/// # Cancel safety
///
/// A future of a carrier that is dropped leaves its request sent or unsent, never half done, and
/// disturbs no other request. What was not yet sent then is never sent afterwards.
pub trait Carrier: Send + Sync + 'static {
    /// What is asked of the store.
    type Op: Send + Sync + 'static;
    /// What the store answers to it.
    type Answer: Send + 'static;

    /// The lock that an operation is about: its key, or whatever stands for it in the store.
    fn key(op: &Self::Op) -> impl Hash;

    /// Sends one operation.
    ///
    /// # Errors
    ///
    /// [`BackendError`] says whether it may have had an effect.
    fn carry_one(
        &self,
        op: &Self::Op,
    ) -> impl Future<Output = Result<Self::Answer, BackendError>> + Send;

    /// Sends at least two operations, of different keys, as one batch. The answers are in the order
    /// of the operations, and each of them may be an error of that operation alone.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the batch failed as a whole; its effect is then that of every operation.
    fn carry(
        &self,
        ops: &[Self::Op],
    ) -> impl Future<Output = Result<Vec<Result<Self::Answer, BackendError>>, BackendError>> + Send;

    /// Whether a batch was refused because the store has too much to do. It is not sent apart then:
    /// that would give the store more. Without a word of the carrier no refusal means that; where
    /// somebody's lock on a row keeps a store busy, that row is to blame and not the batch.
    fn is_overload(error: &BackendError) -> bool {
        let _ = error;
        false
    }
}

/// How much is under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many operations one batch holds at most.
    pub batch: NonZeroUsize,
    /// How many batches are in flight at most.
    pub flights: NonZeroUsize,
    /// How many batches are in flight while fewer than `together` operations wait, those of a key that is
    /// under way included: few operations gather for one of these, rather than each of them having a flight
    /// for itself.
    pub light_flights: NonZeroUsize,
    /// How many operations are worth a flight of their own. More than this, under way or waiting, are
    /// shared out among the flights, so that the store works on one batch while the answers of another
    /// are read. As many as `batch`: none are ever shared out, and the store does the same work in as
    /// few pieces as can be.
    pub together: NonZeroUsize,
    /// How long an operation waits for a lone one of its key whose caller neither polls nor drops
    /// it. Longer than a sound store takes, and a small part of a request timeout.
    pub patience: Duration,
}

impl Limits {
    /// Batches of at most this many operations, one in flight at a time and nothing shared out, and a
    /// patience of 250 ms.
    ///
    /// More flights pay where the store works on one batch while another is on its way or is written to
    /// a disk. Where it does one thing at a time, the second only takes from what gathers for the first.
    pub const fn batches_of(batch: NonZeroUsize) -> Self {
        Self {
            batch,
            flights: NonZeroUsize::MIN,
            light_flights: NonZeroUsize::MIN,
            together: batch,
            patience: Duration::from_millis(250),
        }
    }
}

/// At most 64 operations a batch, so that a store with one thread is never held for long.
impl Default for Limits {
    fn default() -> Self {
        const BATCH: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");
        Self::batches_of(BATCH)
    }
}
