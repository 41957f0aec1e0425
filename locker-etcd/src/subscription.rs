//! The watch stream of a connection: one stream, however many keys are waited for, with one watch
//! for each of them and one for its line.
//!
//! A watch is opened from now on: one that begins at a past revision is served only every 100 ms.
//! What happened before it was confirmed is found by one more try, which the driver makes. A lock
//! goes by its owner's release, by an operator's hand, or with its process's lease, and each of
//! these deletes its key; so the process's own record needs no watch. Of a line only the deletions
//! are asked for.
//!
//! The stream belongs to a task. When it breaks, or the connection is dropped, the streams of hints
//! end, and whoever waits subscribes anew on the next connection: what happened in between is
//! unknown to it, and it tries once more.

use crate::connection::Connection;
use crate::error::{self, Request, from_client};
use crate::line::{Left, View};
use crate::names::Range;
use crate::shared::{Seat, Shared};
use etcd_client::{
    Compare, CompareOp, Event, EventType, KvClient, Txn, TxnOp, WatchClient, WatchFilterType,
    WatchOptions, WatchResponse, WatchStream,
};
use locker_core::BackendError;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How often what could not be withdrawn is tried again. Nothing is sent where nothing is owed.
const WITHDRAW_AGAIN: Duration = Duration::from_secs(5);

/// Ids of watches are chosen here. Zero would let etcd choose, and what is negative is no id.
const FIRST_ID: i64 = 1;

/// The subscription of one connection. Dropping it ends every stream of hints.
#[derive(Debug)]
pub(crate) struct Subscription {
    orders: Orders,
    task: JoinHandle<()>,
}

/// By which the task of a subscription is told what to do.
#[derive(Debug, Clone)]
pub(crate) struct Orders {
    sender: mpsc::UnboundedSender<Order>,
    next_id: Arc<AtomicI64>,
}

/// One watch. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Watching {
    id: i64,
    orders: Orders,
}

/// What is watched.
#[derive(Debug)]
pub(crate) enum Watched {
    /// The record of a lock: what is put, and what is deleted.
    Lock(Vec<u8>),
    /// The enrolments of a lock: what is deleted.
    Line(Range),
}

#[derive(Debug)]
enum Order {
    Watch {
        id: i64,
        watched: Watched,
        view: Arc<View>,
        confirmed: oneshot::Sender<Result<(), BackendError>>,
    },
    Cancel(i64),
    /// There are enrolments to withdraw.
    Withdraw,
}

impl Subscription {
    /// Starts the task, on the current runtime. The stream is opened when it is needed.
    pub(crate) fn start(connection: &Connection, shared: &Arc<Shared>) -> Self {
        let (sender, incoming) = mpsc::unbounded_channel();
        let task = Task {
            client: connection.watch(),
            kv: connection.kv(),
            shared: Arc::clone(shared),
            stream: None,
            watches: HashMap::new(),
        };
        let orders = Orders {
            sender,
            next_id: Arc::new(AtomicI64::new(FIRST_ID)),
        };
        Self {
            orders,
            task: tokio::spawn(task.run(incoming)),
        }
    }

    pub(crate) fn orders(&self) -> &Orders {
        &self.orders
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Orders {
    /// Watches, and lets `view` know what happens; and when the watch ends. It resolves when etcd
    /// has confirmed it.
    pub(crate) async fn watch(
        &self,
        watched: Watched,
        view: &Arc<View>,
    ) -> Result<Watching, BackendError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (confirmed, confirmation) = oneshot::channel();
        let watching = Watching {
            id,
            orders: self.clone(),
        };
        let order = Order::Watch {
            id,
            watched,
            view: Arc::clone(view),
            confirmed,
        };
        let closed = || error::unavailable("the watch stream of etcd has ended");
        self.sender.send(order).map_err(|_| closed())?;
        confirmation.await.map_err(|_| closed())??;
        Ok(watching)
    }

    /// Sees to it that what is owed is withdrawn: now, or as soon as a connection can.
    pub(crate) fn withdraw(&self) {
        let _ = self.sender.send(Order::Withdraw);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.orders.sender.send(Order::Cancel(self.id));
    }
}

/// The task of the subscription.
struct Task {
    client: WatchClient,
    kv: KvClient,
    shared: Arc<Shared>,
    stream: Option<WatchStream>,
    watches: HashMap<i64, Watch>,
}

/// One watch, as the task knows it.
struct Watch {
    /// Who waits for the confirmation; `None` afterwards.
    confirmed: Option<oneshot::Sender<Result<(), BackendError>>>,
    watched: Watched,
    view: Arc<View>,
}

/// However a watch ends, its wait ends with it.
impl Drop for Watch {
    fn drop(&mut self) {
        self.view.end();
    }
}

impl Task {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut again = tokio::time::interval(WITHDRAW_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = async {
                match &mut self.stream {
                    Some(stream) => stream.message().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                message = message => match message {
                    Ok(Some(response)) => self.heard(&response),
                    Ok(None) => self.end(None),
                    Err(cause) => self.end(Some(from_client(cause, Request::Read))),
                },
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                // Also what is owed since by a connection that was there before this one and is gone only
                // now; and, by its first tick, what it owed at the start.
                _ = again.tick() => self.withdraw(),
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Watch {
                id,
                watched,
                view,
                confirmed,
            } => {
                if confirmed.is_closed() {
                    // Who asked for it is gone: it was never sent.
                    return;
                }
                let opened = self.open(id, &watched).await;
                self.watches.insert(
                    id,
                    Watch {
                        confirmed: Some(confirmed),
                        watched,
                        view,
                    },
                );
                if let Err(error) = opened {
                    self.end(Some(error));
                }
            }
            Order::Cancel(id) => {
                let known = self.watches.remove(&id).is_some();
                if known
                    && let Some(stream) = &mut self.stream
                    && stream.cancel(id).await.is_err()
                {
                    self.end(None);
                }
            }
            Order::Withdraw => self.withdraw(),
        }
    }

    async fn open(&mut self, id: i64, watched: &Watched) -> Result<(), BackendError> {
        let options = WatchOptions::new().with_watch_id(id);
        let (name, options) = match watched {
            Watched::Lock(name) => (&**name, options),
            Watched::Line((from, to)) => {
                let deletions = options.with_filters([WatchFilterType::NoPut]);
                // What a deletion leaves of a seat is its name; who stood where is told by what it was.
                (&**from, deletions.with_range(&**to).with_prev_key())
            }
        };
        let opened = match &mut self.stream {
            Some(stream) => stream.watch(name, Some(options)).await,
            None => match self.client.watch(name, Some(options)).await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    Ok(())
                }
                Err(cause) => Err(cause),
            },
        };
        opened.map_err(|cause| from_client(cause, Request::Read))
    }

    fn heard(&mut self, response: &WatchResponse) {
        let id = response.watch_id();
        if response.canceled() {
            // Too slow for a compaction, a member without a leader, or no right to read the key.
            let refused = || {
                let reason = response.cancel_reason();
                from_client(
                    etcd_client::Error::GRpcStatus(status_of(reason)),
                    Request::Read,
                )
            };
            match self.watches.remove(&id) {
                // Its wait ends with it.
                Some(mut watch) => {
                    if let Some(confirmed) = watch.confirmed.take() {
                        let _ = confirmed.send(Err(refused()));
                    }
                }
                // Some releases refuse a watch without saying which.
                None if id < FIRST_ID => self.end(Some(refused())),
                // It was cancelled from here.
                None => {}
            }
            return;
        }
        let Some(watch) = self.watches.get_mut(&id) else {
            return;
        };
        if response.created()
            && let Some(confirmed) = watch.confirmed.take()
        {
            let _ = confirmed.send(Ok(()));
        }
        for event in response.events() {
            watch.heard(event);
        }
    }

    /// The stream is of no use any more: neither is any watch on it.
    fn end(&mut self, error: Option<BackendError>) {
        self.stream = None;
        let error =
            error.unwrap_or_else(|| error::unavailable("the watch stream of etcd has ended"));
        for (_, mut watch) in self.watches.drain() {
            if let Some(confirmed) = watch.confirmed.take() {
                // Each is told the same: a refusal does not break the connection.
                let (kind, effect) = (error.kind(), error.effect());
                let told = BackendError::new(kind, effect, error.to_string());
                let _ = confirmed.send(Err(told));
            }
        }
    }

    /// Deletes what is owed, beside the stream. What cannot be deleted stays owed.
    fn withdraw(&self) {
        let owed = self.shared.owed();
        if owed.is_empty() {
            return;
        }
        let (mut kv, shared) = (self.kv.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let mut owed = Owed {
                seats: owed,
                shared,
            };
            while let Some(seat) = owed.seats.last() {
                if kv.txn(withdrawal(seat)).await.is_err() {
                    return;
                }
                owed.seats.pop();
            }
        });
    }
}

impl Watch {
    fn heard(&self, event: &Event) {
        let deleted = event.event_type() == EventType::Delete;
        match (&self.watched, event.kv()) {
            (Watched::Lock(_), _) => self.view.lock_is_free(deleted),
            (Watched::Line(_), Some(gone)) if deleted => match event.prev_kv() {
                Some(seat) => self.view.has_left(Left {
                    created: seat.create_revision(),
                    at: gone.mod_revision(),
                }),
                // Compacted before it was sent: the place is not known any more.
                None => self.view.end(),
            },
            (Watched::Line(_), _) => {}
        }
    }
}

/// What a withdrawal has still to do. Dropped, it is owed again.
struct Owed {
    seats: Vec<Seat>,
    shared: Arc<Shared>,
}

impl Drop for Owed {
    fn drop(&mut self) {
        for seat in self.seats.drain(..) {
            self.shared.owe(seat);
        }
    }
}

/// Deletes an enrolment, unless the process has enrolled anew.
fn withdrawal(seat: &Seat) -> Txn {
    let number = seat.number.to_string();
    Txn::new()
        .when([Compare::value(&*seat.name, CompareOp::Equal, number)])
        .and_then([TxnOp::delete(&*seat.name, None)])
}

/// The reason of a cancelled watch is a text alone.
fn status_of(reason: &str) -> tonic::Status {
    let code = if reason.ends_with("permission denied") {
        tonic::Code::PermissionDenied
    } else {
        tonic::Code::Unavailable
    };
    tonic::Status::new(code, reason)
}
