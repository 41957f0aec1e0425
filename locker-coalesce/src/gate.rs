//! The way of an operation from its caller to the store and back.

use crate::carrier::{Carrier, Limits};
use crate::driver::Driver;
use crate::error;
use crate::queue::{LoneId, Place, Queue};
use futures_util::FutureExt;
use locker_core::BackendError;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Sends what is asked of it through one [`Carrier`], together where that saves requests.
///
/// When it is dropped, what is in flight is given up: nobody waits for it any more, because whoever
/// waits borrows the gate. The carrier is dropped with the tasks of the gate, when their runtime
/// next turns to them.
pub struct Gate<C: Carrier> {
    shared: Arc<Shared<C>>,
    tasks: Box<[AbortHandle]>,
}

/// What callers and tasks share.
pub(crate) struct Shared<C: Carrier> {
    pub(crate) carrier: C,
    queue: Mutex<Queue<Parcel<C>>>,
    /// Rung when a task has something to look for.
    pub(crate) kick: Notify,
    pub(crate) patience: Duration,
    /// Whether the tasks of the runtime run on several workers.
    pub(crate) has_workers: bool,
    hasher: RandomState,
}

/// An operation in the queue, and who waits for its answer.
pub(crate) struct Parcel<C: Carrier> {
    pub(crate) op: C::Op,
    pub(crate) reply: Reply<C>,
}

/// Where an answer goes. If it is dropped without one, the effect is unknown.
pub(crate) type Reply<C> = oneshot::Sender<Outcome<C>>;

pub(crate) type Outcome<C> = Result<<C as Carrier>::Answer, BackendError>;

impl<C: Carrier> Gate<C> {
    /// A gate whose tasks belong to the runtime on which this is called. It needs the runtime's
    /// timers.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(carrier: C, limits: Limits) -> Self {
        let shared = Arc::new(Shared {
            carrier,
            queue: Mutex::new(Queue::new(limits)),
            kick: Notify::new(),
            patience: limits.patience,
            has_workers: Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread,
            hasher: RandomState::new(),
        });
        // Made here, so that a task that is dropped before its first turn closes the gate as well.
        let drive = |_| tokio::spawn(Driver::new(Arc::clone(&shared)).run()).abort_handle();
        let tasks = (0..limits.flights.get()).map(drive).collect();
        Self { shared, tasks }
    }

    /// The carrier, for what does not pass through the gate.
    pub fn carrier(&self) -> &C {
        &self.shared.carrier
    }

    /// Sends an operation, alone or with others, and answers what the store says to it.
    ///
    /// # Errors
    ///
    /// What the carrier says of this operation, or of the batch in which it travelled. Of kind
    /// [`Unavailable`](locker_core::ErrorKind::Unavailable) if the carrier panicked, or the runtime
    /// of the gate has ended; the effect says whether it may have been sent.
    ///
    /// # Cancel safety
    ///
    /// Dropped while the operation waits in the queue, it is never sent. Dropped later, it is of
    /// unknown effect; if it travels in a batch, that is given up when all its callers have gone. No
    /// other operation is disturbed. As long as a future of a batch is neither polled nor dropped, the
    /// batch waits for its answers.
    pub async fn ask(&self, op: C::Op) -> Result<C::Answer, BackendError> {
        match self.enter(op) {
            Entered::Lone(op, mark) => {
                // Boxed, so that the futures of all the others stay small.
                let answer = Box::pin(mark.shared.carry_one(&op)).await;
                drop(mark);
                answer
            }
            Entered::Queued(mut stand) => stand.answer().await,
            Entered::Closed => Err(error::closed()),
        }
    }

    fn enter(&self, op: C::Op) -> Entered<'_, C> {
        let shared = &*self.shared;
        let fingerprint = shared.hasher.hash_one(C::key(&op));
        let mut queue = shared.queue();
        if queue.is_closed() {
            return Entered::Closed;
        }
        if let Some(id) = queue.begin_lone(fingerprint) {
            return Entered::Lone(op, LoneMark { shared, id });
        }
        let (reply, answer) = oneshot::channel();
        let place = queue.push(fingerprint, Parcel { op, reply }, Instant::now);
        if queue.wants_a_flight() {
            shared.kick.notify_one();
        }
        Entered::Queued(Stand {
            shared,
            place,
            answer,
            answered: false,
        })
    }
}

impl<C: Carrier> Drop for Gate<C> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl<C: Carrier> fmt::Debug for Gate<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl<C: Carrier> Shared<C> {
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue<Parcel<C>>> {
        // Nothing of a user runs under the lock, so a panic leaves the queue as it was.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one operation. A panic of the carrier is an answer like any other.
    pub(crate) async fn carry_one(&self, op: &C::Op) -> Outcome<C> {
        // What a panic has left broken is not used again: the error tells the caller to close it.
        AssertUnwindSafe(async { self.carrier.carry_one(op).await })
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(error::panicked()))
    }
}

/// How an operation goes.
enum Entered<'g, C: Carrier> {
    /// Nothing is under way: the caller sends it.
    Lone(C::Op, LoneMark<'g, C>),
    /// It stands in the queue.
    Queued(Stand<'g, C>),
    /// Nobody is there to send it.
    Closed,
}

/// Says that a lone operation is under way, for as long as its caller cares.
struct LoneMark<'g, C: Carrier> {
    shared: &'g Shared<C>,
    id: LoneId,
}

impl<C: Carrier> Drop for LoneMark<'_, C> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.end_lone(self.id);
        if queue.wants_a_flight() {
            self.shared.kick.notify_one();
        }
    }
}

/// The place of a caller in the queue. Its drop withdraws what was not yet sent.
struct Stand<'g, C: Carrier> {
    shared: &'g Shared<C>,
    place: Place,
    answer: oneshot::Receiver<Outcome<C>>,
    answered: bool,
}

impl<C: Carrier> Stand<'_, C> {
    async fn answer(&mut self) -> Outcome<C> {
        let answer = (&mut self.answer).await;
        self.answered = true;
        answer.unwrap_or_else(|_| Err(error::abandoned()))
    }
}

impl<C: Carrier> Drop for Stand<'_, C> {
    fn drop(&mut self) {
        if !self.answered {
            // Before the look into the queue: an operation that is about to take its place again
            // is found there, or finds that nobody waits for it.
            self.answer.close();
            let withdrawn = self.shared.queue().withdraw(self.place);
            // The operation is the store's own; it is dropped outside of the lock.
            drop(withdrawn);
        }
    }
}
