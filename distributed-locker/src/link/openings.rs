//! Connections that are being opened.
//!
//! *Why does an opening outlive the request that it was begun for?* It takes several round trips
//! (TLS, a password, a look at the schema), and a request has to follow in what is left of its time.
//! On a network that is slow, and quick enough for requests, every try would be cut short, and a
//! connection that broke once would never come back (F12). So whoever runs out of time leaves its
//! opening to itself: when it gets through, it becomes the connection of its link, whether or not
//! anybody asks.
//!
//! *Why is it not the only one?* What it waits for may have been lost on the way, and never come. So
//! once the youngest is a request timeout old, another is begun beside it. Each ends after
//! [`PATIENCE`] request timeouts, so that there are never more than that, and no more are begun than
//! if each were given up for the next. The first to get through is the connection; the others are
//! given up, or close what they opened.
//!
//! *And if they fail at once?* Whoever has no connection may try again: nothing else is left to it.
//! Beside a connection that is doubted one is begun in a request timeout, whatever becomes of it. It
//! may well be as sound as any other, and a server that lets nobody in any more is not to be asked
//! by every request (F12).

use futures_util::FutureExt;
use locker_core::{BackendError, Effect, ErrorKind, Instant};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How many request timeouts an opening may take.
pub(super) const PATIENCE: u32 = 4;

/// Those of one link.
#[derive(Debug, Default)]
pub(super) struct Openings {
    /// The oldest first.
    under_way: Vec<Opening>,
    /// When one was begun at last, also if it has failed.
    last: Option<Instant>,
}

#[derive(Debug)]
struct Opening {
    begun: Instant,
    task: JoinHandle<Result<(), BackendError>>,
}

impl Openings {
    /// Forgets those that have ended: what failed while nobody looked is no news any more.
    pub(super) fn forget_ended(&mut self) {
        self.under_way.retain(|opening| !opening.task.is_finished());
    }

    /// Whether another one is to be begun, for a link that has a connection or has none.
    pub(super) fn is_due(&self, now: Instant, timeout: Duration, has_one: bool) -> bool {
        let youngest = self.under_way.last().map(|opening| opening.begun);
        let last = if has_one { self.last } else { youngest };
        last.is_none_or(|begun| now.since(begun) >= timeout)
    }

    /// Takes in one that has been begun.
    pub(super) fn begin(&mut self, now: Instant, task: JoinHandle<Result<(), BackendError>>) {
        self.under_way.push(Opening { begun: now, task });
        self.last = Some(now);
    }

    /// Resolves when the first gets through, or fails; at once if none is under way.
    ///
    /// # Cancel safety
    ///
    /// What was begun goes on when it is dropped.
    pub(super) async fn first(&mut self) -> Result<(), BackendError> {
        let ended = poll_fn(|context| self.poll(context)).await;
        if ended.is_ok() {
            self.under_way.clear();
        }
        ended
    }

    /// Takes out one that has ended.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BackendError>> {
        if self.under_way.is_empty() {
            return Poll::Ready(Ok(()));
        }
        for place in 0..self.under_way.len() {
            if let Poll::Ready(ended) = self.under_way[place].task.poll_unpin(context) {
                self.under_way.remove(place);
                return Poll::Ready(ended.unwrap_or_else(|_| Err(runtime_ended())));
            }
        }
        Poll::Pending
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn runtime_ended() -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        Effect::NotApplied,
        "the runtime on which the locker was started has ended",
    )
}
