//! What happens in the background, for those who want to know.
//!
//! The Reporter's thread runs no code of the user: it puts events into a bounded queue, which
//! forgets the oldest when nobody reads. They are written to `tracing` by a task on the runtime
//! that started the locker.

use futures_core::Stream;
use locker_core::machine::Loss;
use locker_core::time::ClockJump;
use locker_core::{OwnerHash, ProcessHash};
use std::fmt;
use std::time::Duration;
use tokio::sync::broadcast;

/// Something that happened in the background. None of these ends a job by itself, but
/// [`Event::LostLock`] says that a job is being ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// About the process's own liveness.
    Reporter(ReporterEvent),
    /// About locks being kept and given back. The text says what was tried and what happens next.
    Locker(String),
    /// A lock was lost.
    LostLock {
        /// Whose acquisition it was.
        owner: OwnerHash,
        /// Why, and until when it is safe to clean up.
        loss: Loss,
    },
}

/// Something about the process's own liveness.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReporterEvent {
    /// A new incarnation was confirmed by the store.
    Born(ProcessHash),
    /// A report failed; it is being repeated.
    Failed(String),
    /// The incarnation has ended: all its locks are lost. A new one is being born.
    Ended {
        /// Which one.
        process: ProcessHash,
        /// Why.
        why: &'static str,
    },
    /// The process's record was given up in good order.
    Retired(ProcessHash),
    /// The store's clock has moved against the machine's by more than the hard margin. On a store
    /// that expires by wall clock this touches assumption A3.
    StoreClockJumped(ClockJump),
    /// The machine's wall clock and boot clock have moved against each other: the clock was
    /// stepped, or the machine was paused without its boot clock noticing (A4).
    WallClockJumped(Duration),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reporter(event) => event.fmt(f),
            Self::Locker(text) => f.write_str(text),
            Self::LostLock { owner, loss } => write!(f, "{owner}: {loss}"),
        }
    }
}

impl fmt::Display for ReporterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Born(process) => write!(f, "{process} reports that it lives"),
            Self::Failed(error) => write!(f, "a liveness report failed: {error}"),
            Self::Ended { process, why } => write!(f, "{process} has ended: {why}"),
            Self::Retired(process) => write!(f, "{process} was retired"),
            Self::StoreClockJumped(ClockJump::Forward(by)) => {
                write!(f, "the store's clock jumped forward by {by:?}")
            }
            Self::StoreClockJumped(ClockJump::Back(by)) => {
                write!(f, "the store's clock jumped back by {by:?}")
            }
            Self::WallClockJumped(by) => {
                write!(f, "the wall clock moved against the boot clock by {by:?}")
            }
        }
    }
}

/// The sending side. Sending never waits and never fails.
#[derive(Debug, Clone)]
pub(crate) struct EventSender(broadcast::Sender<Event>);

impl EventSender {
    pub(crate) fn new() -> Self {
        const KEPT: usize = 256;
        Self(broadcast::Sender::new(KEPT))
    }

    pub(crate) fn send(&self, event: Event) {
        // An error means that nobody listens.
        let _ = self.0.send(event);
    }

    pub(crate) fn subscribe(&self) -> Events {
        Events(self.0.subscribe())
    }
}

/// The events of a locker from the subscription on.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` when the locker has ended. Events that were forgotten because they
    /// were not read in time are skipped.
    ///
    /// # Cancel safety
    ///
    /// No event is lost when this is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// The events as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Event> + Send {
        futures_util::stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            Some((event, events))
        })
    }
}

/// Writes events to `tracing` until the locker ends.
pub(crate) async fn write_to_tracing(mut events: Events) {
    while let Some(event) = events.next().await {
        match &event {
            Event::Reporter(ReporterEvent::Born(_) | ReporterEvent::Retired(_)) => {
                tracing::debug!(target: "distributed_locker", "{event}");
            }
            Event::Reporter(_) | Event::Locker(_) | Event::LostLock { .. } => {
                tracing::warn!(target: "distributed_locker", "{event}");
            }
        }
    }
}
