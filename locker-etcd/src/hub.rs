//! The watch stream of a connection: one stream, however many keys are waited for, with one watch
//! for each of them.
//!
//! A watch is opened from now on: one that begins at a past revision is served only every 100 ms.
//! What happened before it was confirmed is found by one more try, which the driver makes. Only
//! deletions are asked for. A lock goes by its owner's release, by an operator's hand, or with its
//! process's lease, and each of these deletes its key; so the process's own record needs no watch.
//!
//! The stream belongs to a task. When it breaks, or the connection is dropped, the streams of hints
//! end, and whoever waits subscribes anew on the next connection: what happened in between is
//! unknown to it, and it tries once more.

use crate::connection::Connection;
use crate::error::{self, Request, from_client};
use crate::shared::{Seat, Shared};
use etcd_client::{
    Compare, CompareOp, EventType, KvClient, Txn, TxnOp, WatchClient, WatchFilterType,
    WatchOptions, WatchResponse, WatchStream,
};
use locker_core::BackendError;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Ids of watches are chosen here. Zero would let etcd choose, and what is negative is no id.
const FIRST_ID: i64 = 1;

/// The hub of one connection. Dropping it ends every stream of hints.
#[derive(Debug)]
pub(crate) struct Hub {
    orders: mpsc::UnboundedSender<Order>,
    next_id: AtomicI64,
    task: JoinHandle<()>,
}

/// One watch. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Watching {
    id: i64,
    orders: mpsc::UnboundedSender<Order>,
    /// One signal waits at most: a newer one says all that an older one did.
    signals: mpsc::Receiver<()>,
}

/// What the task is told to do.
#[derive(Debug)]
enum Order {
    Watch {
        id: i64,
        name: Vec<u8>,
        confirmed: oneshot::Sender<Result<(), BackendError>>,
        signals: mpsc::Sender<()>,
    },
    Cancel(i64),
    /// There are enrolments to withdraw.
    Withdraw,
}

impl Hub {
    /// Starts the task, on the current runtime. The stream is opened when it is needed.
    pub(crate) fn start(connection: &Connection, shared: &Arc<Shared>) -> Self {
        let (orders, incoming) = mpsc::unbounded_channel();
        let task = Task {
            client: connection.watch(),
            kv: connection.kv(),
            shared: Arc::clone(shared),
            stream: None,
            watches: HashMap::new(),
        };
        // What the connection before this one could not withdraw.
        let _ = orders.send(Order::Withdraw);
        Self {
            orders,
            next_id: AtomicI64::new(FIRST_ID),
            task: tokio::spawn(task.run(incoming)),
        }
    }

    /// Watches for the deletion of a key. It resolves when etcd has confirmed it.
    pub(crate) async fn watch(&self, name: Vec<u8>) -> Result<Watching, BackendError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (confirmed, confirmation) = oneshot::channel();
        let (signals, received) = mpsc::channel(1);
        let watching = Watching {
            id,
            orders: self.orders.clone(),
            signals: received,
        };
        let order = Order::Watch {
            id,
            name,
            confirmed,
            signals,
        };
        let closed = || error::unavailable("the watch stream of etcd has ended");
        self.orders.send(order).map_err(|_| closed())?;
        confirmation.await.map_err(|_| closed())??;
        Ok(watching)
    }

    /// How a dropped enrolment tells that it is to be withdrawn.
    pub(crate) fn withdrawals(&self) -> Withdrawals {
        Withdrawals(self.orders.clone())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watching {
    /// Waits for the next deletion; `None` when the watch has ended.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost.
    pub(crate) async fn deleted(&mut self) -> Option<()> {
        self.signals.recv().await
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Cancel(self.id));
    }
}

/// See [`Hub::withdrawals`].
#[derive(Debug, Clone)]
pub(crate) struct Withdrawals(mpsc::UnboundedSender<Order>);

impl Withdrawals {
    /// Sees to it that what is owed is withdrawn: now, or on the next connection.
    pub(crate) fn poke(&self) {
        let _ = self.0.send(Order::Withdraw);
    }
}

/// The task of the hub.
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
    signals: mpsc::Sender<()>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
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
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Watch {
                id,
                name,
                confirmed,
                signals,
            } => {
                if confirmed.is_closed() {
                    // Who asked for it is gone: it was never sent.
                    return;
                }
                self.watches.insert(
                    id,
                    Watch {
                        confirmed: Some(confirmed),
                        signals,
                    },
                );
                if let Err(error) = self.open(id, name).await {
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

    async fn open(&mut self, id: i64, name: Vec<u8>) -> Result<(), BackendError> {
        let options = WatchOptions::new()
            .with_watch_id(id)
            .with_filters([WatchFilterType::NoPut]);
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
                Some(Watch {
                    confirmed: Some(confirmed),
                    ..
                }) => {
                    let _ = confirmed.send(Err(refused()));
                }
                // Some releases refuse a watch without saying which.
                None if id < FIRST_ID => self.end(Some(refused())),
                // Its stream of hints ends with it; or it was cancelled from here.
                Some(_) | None => {}
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
        let deleted = |event: &etcd_client::Event| event.event_type() == EventType::Delete;
        if response.events().iter().any(deleted) {
            // A signal that is already there says the same.
            let _ = watch.signals.try_send(());
        }
    }

    /// The stream is of no use any more: neither is any watch on it.
    fn end(&mut self, error: Option<BackendError>) {
        self.stream = None;
        let mut error = error;
        for (_, watch) in self.watches.drain() {
            if let Some(confirmed) = watch.confirmed {
                let told = error
                    .take()
                    .unwrap_or_else(|| error::unavailable("the watch stream of etcd has ended"));
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
