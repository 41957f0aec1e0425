//! Who waits for a lock, and in which order.
//!
//! A process that waits puts a key beside the lock, on its own lease: so the dead have no place. The
//! order is that of the keys' creation. Whoever enrols counts who stands before it, and is told from
//! then on who leaves: so it knows its place when the lock goes, and asks nobody for it.

use crate::error::{self, Request};
use crate::line::View;
use crate::session::{Session, revision_of};
use crate::shared::{Seat, Shared};
use crate::subscription::{Orders, Subscription, Watched, Watching};
use etcd_client::{GetOptions, PutOptions, Txn, TxnOp};
use futures_core::Stream;
use futures_util::future::try_join;
use locker_core::backend::{Hint, HintStream, Watcher};
use locker_core::{BackendError, Key, ProcessHash};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// The hints of one key.
pub(crate) async fn watch(
    session: &Arc<Session>,
    subscription: &Subscription,
    key: &Key,
    watcher: &Watcher,
) -> Result<HintStream, BackendError> {
    let orders = subscription.orders();
    match watcher {
        Watcher::Observer => {
            let view = Arc::default();
            let lock = Watched::Lock(session.names.owner(key));
            let watching = vec![orders.watch(lock, &view).await?];
            Ok(Box::pin(Hints {
                view,
                _watching: watching,
                _place: None,
            }))
        }
        Watcher::Waiter(process) => Ok(match enrol(session, orders, key, process).await? {
            Some(hints) => Box::pin(hints),
            // Its process is dead to the store: so is its enrolment.
            None => Box::pin(futures_util::stream::empty()),
        }),
    }
}

/// The hints of one key. Dropping them withdraws.
#[derive(Debug)]
struct Hints {
    view: Arc<View>,
    _watching: Vec<Watching>,
    _place: Option<Place>,
}

impl Stream for Hints {
    type Item = Hint;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Hint>> {
        self.view.poll(context)
    }
}

/// A place in the order. Dropping it withdraws.
#[derive(Debug)]
struct Place {
    seat: Seat,
    shared: Arc<Shared>,
    orders: Orders,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.owe(self.seat.clone());
        self.orders.withdraw();
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
    orders: &Orders,
    key: &Key,
    process: &ProcessHash,
) -> Result<Option<Hints>, BackendError> {
    let (session, orders) = (Arc::clone(session), orders.clone());
    let (key, process) = (key.clone(), process.clone());
    let (told, answer) = oneshot::channel();
    tokio::spawn(async move {
        // A place that nobody takes any more is dropped, and so withdrawn.
        drop(told.send(enrolled(&session, orders, &key, &process).await));
    });
    answer.await.unwrap_or_else(|_| {
        Err(error::unavailable(
            "the runtime of the connection has ended",
        ))
    })
}

async fn enrolled(
    session: &Session,
    orders: Orders,
    key: &Key,
    process: &ProcessHash,
) -> Result<Option<Hints>, BackendError> {
    let view = Arc::default();
    let line = session.names.waiters(key);
    // The watches come first, so that nobody leaves the line between the look at it and its watch.
    let watching = try_join(
        orders.watch(Watched::Lock(session.names.owner(key)), &view),
        orders.watch(Watched::Line(line.clone()), &view),
    );
    let (of_lock, of_line) = watching.await?;
    let place = Place {
        seat: Seat {
            name: session.names.waiter(key, process),
            number: session.shared.next_enrolment(),
        },
        shared: Arc::clone(&session.shared),
        orders,
    };
    let name = &*place.seat.name;
    let on = PutOptions::new().with_lease(session.names.lease(process));
    let count = GetOptions::new().with_range(&*line.1).with_count_only();
    let enrol = Txn::new().and_then([
        TxnOp::put(name, place.seat.number.to_string(), Some(on)),
        TxnOp::get(name, Some(GetOptions::new().with_keys_only())),
        TxnOp::get(&*line.0, Some(count)),
    ]);
    let done = match session.transact(enrol, Request::Write).await {
        Err(error) if error::names_no_lease(&error) => return Ok(None),
        done => done?,
    };
    let own = done.found(1)?.first().ok_or_else(error::malformed)?;
    let own = own.create_revision();
    let (before, at) = if own == done.revision {
        // It is the newest of all.
        (done.counted(2)? - 1, done.revision)
    } else {
        // It was there already, and others have come behind it: they have to be looked at.
        let older = GetOptions::new()
            .with_range(line.1)
            .with_max_create_revision(own - 1)
            .with_keys_only();
        let found = session.get(line.0, Some(older)).await?;
        let before = i64::try_from(found.kvs().len()).unwrap_or(i64::MAX);
        (before, revision_of(&found))
    };
    view.stand(own, before, at);
    Ok(Some(Hints {
        view,
        _watching: vec![of_lock, of_line],
        _place: Some(place),
    }))
}
