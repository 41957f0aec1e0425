//! Who waits for a lock, and in which order.
//!
//! A process that waits puts a key beside the lock, on its own lease: so the dead have no place. The
//! order is that of the keys' creation. When the lock goes, the first tries at once, and knows
//! beforehand that it is the first; every other one reads how many came before it, from the member
//! that told it of the release.

use crate::error::{self, Request, from_client};
use crate::hub::{Hub, Watching, Withdrawals};
use crate::session::Session;
use crate::shared::{Seat, Shared};
use etcd_client::{GetOptions, KvClient, PutOptions, Txn, TxnOp, TxnOpResponse};
use futures_core::Stream;
use locker_core::backend::{Hint, HintStream, Watcher};
use locker_core::{BackendError, Key, ProcessHash};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Nobody is put further back than this: it would wait for more than a second.
const LAST: i64 = 64;

/// The hints of one key.
pub(crate) async fn watch(
    session: &Arc<Session>,
    hub: &Hub,
    key: &Key,
    watcher: &Watcher,
) -> Result<HintStream, BackendError> {
    let name = session.names.owner(key);
    let place = match watcher {
        Watcher::Observer => None,
        Watcher::Waiter(process) => match enrol(session, hub, key, process).await? {
            Some(place) => Some(place),
            // Its process is dead to the store: so is its enrolment.
            None => return Ok(Box::pin(futures_util::stream::empty())),
        },
    };
    let watching = hub.watch(name).await?;
    let (hints, received) = mpsc::channel(1);
    let task = tokio::spawn(tell(watching, place, hints));
    Ok(Box::pin(Hints { received, task }))
}

/// The hints of one key. Dropping them withdraws.
#[derive(Debug)]
struct Hints {
    received: mpsc::Receiver<Hint>,
    task: JoinHandle<()>,
}

/// Makes a hint of every deletion. The place is looked up when the lock goes, not when somebody
/// asks for the hint: by then others may have gone on.
async fn tell(mut watching: Watching, mut place: Option<Place>, hints: mpsc::Sender<Hint>) {
    while watching.deleted().await.is_some() {
        let before = match &mut place {
            None => Some(0),
            Some(place) => place.now().await,
        };
        let Some(place) = before else {
            return;
        };
        // A hint that still waits to be read is enough.
        let _ = hints.try_send(Hint::Free { place });
    }
}

impl Stream for Hints {
    type Item = Hint;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        self.received.poll_recv(context)
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A place in the order. Dropping it withdraws.
#[derive(Debug)]
struct Place {
    seat: Seat,
    created: i64,
    waiters: crate::names::Range,
    /// How many came before, when that was last looked at. It only becomes less.
    before: u32,
    kv: Reader,
    shared: Arc<Shared>,
    withdrawals: Withdrawals,
}

/// The client, which says nothing of itself.
struct Reader(KvClient);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KvClient")
    }
}

/// Enrols the process. An enrolment that is already there keeps its place. `None` when the process
/// is dead.
///
/// It is carried to its end by a task of its own: whoever asked for it may go away while it is under
/// way, and it can be withdrawn for certain only when it was answered. An enrolment that stays behind
/// would be a place before all others, which nobody takes.
async fn enrol(
    session: &Arc<Session>,
    hub: &Hub,
    key: &Key,
    process: &ProcessHash,
) -> Result<Option<Place>, BackendError> {
    let place = Place {
        seat: Seat {
            name: session.names.waiter(key, process),
            number: session.shared.next_enrolment(),
        },
        created: 0,
        waiters: session.names.waiters(key),
        before: 0,
        kv: Reader(session.connection.kv()),
        shared: Arc::clone(&session.shared),
        withdrawals: hub.withdrawals(),
    };
    let lease = session.names.lease(process);
    let (told, answer) = oneshot::channel();
    let session = Arc::clone(session);
    tokio::spawn(async move {
        // A place that nobody takes any more is dropped, and so withdrawn.
        drop(told.send(place.enrolled(&session, lease).await));
    });
    answer.await.unwrap_or_else(|_| {
        Err(error::unavailable(
            "the runtime of the connection has ended",
        ))
    })
}

impl Place {
    /// This place, as the store knows it; `None` when the process is dead.
    async fn enrolled(
        mut self,
        session: &Session,
        lease: i64,
    ) -> Result<Option<Self>, BackendError> {
        let name = &*self.seat.name;
        let (from, to) = &self.waiters;
        let on = PutOptions::new().with_lease(lease);
        let enrol = Txn::new().and_then([
            TxnOp::put(name, self.seat.number.to_string(), Some(on)),
            TxnOp::get(name, Some(GetOptions::new().with_keys_only())),
            TxnOp::get(
                &**from,
                Some(GetOptions::new().with_range(&**to).with_count_only()),
            ),
        ]);
        let done = match session.transact(enrol, Request::Write).await {
            Err(error) if error::names_no_lease(&error) => return Ok(None),
            done => done?,
        };
        let own = done.found(1)?.first();
        self.created = own.map_or(done.revision, etcd_client::KeyValue::create_revision);
        let count = match done.answers.get(2) {
            Some(TxnOpResponse::Get(answer)) => answer.count(),
            _ => return Err(error::malformed()),
        };
        self.before = places(count - 1);
        Ok(Some(self))
    }

    /// How many stand before this one now; `None` when the enrolment is gone.
    async fn now(&mut self) -> Option<u32> {
        if self.before == 0 {
            return Some(0);
        }
        let (from, to) = &self.waiters;
        let options = GetOptions::new()
            .with_range(&**to)
            .with_max_create_revision(self.created - 1)
            .with_keys_only()
            .with_limit(LAST)
            .with_serializable();
        let own = GetOptions::new().with_keys_only().with_serializable();
        let look = Txn::new().and_then([
            TxnOp::get(&**from, Some(options)),
            TxnOp::get(&*self.seat.name, Some(own)),
        ]);
        let answer = match self.kv.0.txn(look).await {
            Ok(answer) => answer,
            Err(cause) => {
                // A hint is a hint: what was known last will do.
                let error = from_client(cause, Request::Read);
                tracing::debug!(%error, "the place of a waiter could not be read");
                return Some(self.before);
            }
        };
        let answers = answer.op_responses();
        let [TxnOpResponse::Get(before), TxnOpResponse::Get(own)] = &*answers else {
            return Some(self.before);
        };
        if own.kvs().is_empty() {
            return None;
        }
        self.before = places(i64::try_from(before.kvs().len()).unwrap_or(LAST));
        Some(self.before)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.owe(self.seat.clone());
        self.withdrawals.poke();
    }
}

fn places(count: i64) -> u32 {
    u32::try_from(count.clamp(0, LAST)).unwrap_or(0)
}
