//! The task that sends what has gathered, and tells every caller its answer.

use crate::carrier::Carrier;
use crate::error;
use crate::gate::{Parcel, Reply, Shared};
use crate::queue::{Batch, Tag};
use futures_util::FutureExt;
use futures_util::future::join_all;
use locker_core::BackendError;
use std::future::poll_fn;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How many turns those who got their answers have to ask for more.
const TURNS: u32 = 4;

/// The state of one task. Its drop, whatever the reason, closes the gate.
pub(crate) struct Driver<C: Carrier> {
    shared: Arc<Shared<C>>,
}

impl<C: Carrier> Driver<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>) -> Self {
        Self { shared }
    }

    pub(crate) async fn run(self) {
        loop {
            self.kicked().await;
            // Whoever is ready to ask as well does so now, and travels in the same batch.
            turn(self.shared.has_workers).await;
            let mut next = self.take(None);
            while let Some(batch) = next {
                let mut landed = self.fly(batch).await;
                // Those who have just got their answers may have more to ask. Until they had their
                // turn the batch counts as in flight, so that what they ask gathers.
                landed.turns(self.shared.has_workers).await;
                next = self.take(Some(landed));
            }
        }
    }

    /// Waits until there may be something to send.
    async fn kicked(&self) {
        let kick = self.shared.kick.notified();
        let waits_since = self.shared.queue().waits_since();
        match waits_since {
            None => kick.await,
            Some(since) => tokio::select! {
                () = kick => {}
                () = tokio::time::sleep_until(since + self.shared.patience) => {}
            },
        }
    }

    /// Takes the next batch, after the one that has landed.
    fn take(&self, landed: Option<Landed<C>>) -> Option<Batch<Parcel<C>>> {
        // Dropped after the lock.
        let mut left = Vec::new();
        let mut queue = self.shared.queue();
        if let Some(Landed { tags, refused, .. }) = landed {
            for (&tag, parcel) in tags.iter().zip(refused) {
                // While it was under way its caller had no place to give up.
                if parcel.reply.is_closed() {
                    left.push(parcel);
                } else {
                    queue.put_back(tag, parcel);
                }
            }
            queue.land(&tags);
        }
        if queue.waits_since().is_some() {
            queue.pass_by(Instant::now(), self.shared.patience);
        }
        let taken = queue.take();
        if taken.more {
            self.shared.kick.notify_one();
        }
        taken.batch
    }

    /// Sends a batch, and gives every member its answer unless it is to be sent again.
    async fn fly(&self, batch: Batch<Parcel<C>>) -> Landed<C> {
        let Batch {
            mut members,
            apart,
            tags,
        } = batch;
        let mut landed = Landed {
            tags,
            refused: Vec::new(),
            asked_again: None,
        };
        if apart {
            join_all(members.drain(..).map(|parcel| self.send_alone(parcel))).await;
        } else if members.len() > 1 {
            self.send_together(members, &mut landed).await;
        } else if let Some(parcel) = members.pop() {
            self.send_alone(parcel).await;
        }
        landed
    }

    /// Sends an operation as a request of its own. As if its caller had sent it, it is given up when
    /// the caller goes away.
    async fn send_alone(&self, parcel: Parcel<C>) {
        let Parcel { op, mut reply } = parcel;
        let answer = tokio::select! {
            biased;
            answer = self.shared.carry_one(&op) => answer,
            () = reply.closed() => return,
        };
        // What nobody takes is dropped.
        drop(reply.send(answer));
    }

    /// Sends operations as one request, and gives them their answers, or notes that they are to be sent
    /// again, apart. When all their callers have gone away, it is given up: a request that is never
    /// answered would keep its keys from everybody who comes later.
    async fn send_together(&self, members: Vec<Parcel<C>>, landed: &mut Landed<C>) {
        let (ops, mut replies): (Vec<_>, Vec<_>) = members
            .into_iter()
            .map(|parcel| (parcel.op, parcel.reply))
            .unzip();
        let carried = AssertUnwindSafe(async { self.shared.carrier.carry(&ops).await });
        let all_left = async {
            for reply in &mut replies {
                reply.closed().await;
            }
        };
        let answers = tokio::select! {
            biased;
            answers = carried.catch_unwind() => answers,
            () = all_left => return,
        };
        match answers.unwrap_or_else(|_| Err(error::panicked())) {
            Ok(answers) if answers.len() == ops.len() => {
                // Before the first of them can ask again.
                landed.asked_again = Some(self.shared.queue().asked_again(ops.len()));
                for (reply, answer) in replies.into_iter().zip(answers) {
                    drop(reply.send(answer));
                }
            }
            Ok(answers) => fail::<C>(replies, &error::miscounted(ops.len(), answers.len())),
            Err(error) if error::blames_a_member(&error) && !C::is_overload(&error) => {
                let parcels = ops.into_iter().zip(replies);
                let parcels = parcels.map(|(op, reply)| Parcel { op, reply });
                landed.refused = parcels.collect();
            }
            Err(error) => fail::<C>(replies, &error),
        }
    }
}

impl<C: Carrier> Drop for Driver<C> {
    fn drop(&mut self) {
        let waiting = self.shared.queue().close();
        for parcel in waiting {
            drop(parcel.reply.send(Err(error::closed())));
        }
    }
}

/// A batch that is in flight no more.
struct Landed<C: Carrier> {
    tags: Vec<Tag>,
    /// Those of its members that were refused because of one of them; all or none.
    refused: Vec<Parcel<C>>,
    /// Tells when as many operations were asked for as were answered.
    asked_again: Option<oneshot::Receiver<()>>,
}

impl<C: Carrier> Landed<C> {
    /// Waits while those who were answered have their turns: until as many have asked again, so that
    /// the store works on the next batch while others still read the answers of another; at most until
    /// everybody who was ready has run [`TURNS`] times. The first is not enough: some run on another
    /// worker of the runtime, some do something else before they ask, and a batch without those is small.
    async fn turns(&mut self, has_workers: bool) {
        let everybody = async {
            for _ in 0..TURNS {
                turn(has_workers).await;
            }
        };
        match &mut self.asked_again {
            None => everybody.await,
            Some(asked_again) => tokio::select! {
                biased;
                _ = asked_again => {}
                () = everybody => {}
            },
        }
    }
}

/// Lets everybody run once who is ready now, and comes back.
///
/// The runtime's own `yield_now` comes back only when its worker next looks for I/O. With several workers
/// that may be 61 tasks later, and no other worker can take the task over meanwhile. A runtime without
/// them polls the future that it blocks on at that very moment and never before: who asks from there
/// would have no turn otherwise.
async fn turn(has_workers: bool) {
    if !has_workers {
        return tokio::task::yield_now().await;
    }
    let mut had = false;
    poll_fn(|context| {
        if mem::replace(&mut had, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Tells everybody the same error.
fn fail<C: Carrier>(replies: Vec<Reply<C>>, error: &BackendError) {
    for reply in replies {
        drop(reply.send(Err(error.clone())));
    }
}
