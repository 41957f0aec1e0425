//! What happens in the background, for those who want to know.
//!
//! The Reporter's thread runs no code of the user: it puts events into a bounded queue, which
//! forgets the oldest when nobody reads. They are written to `tracing` by a task on the runtime
//! that started the locker.

use crate::shared::Life;
use crate::spans::TARGET;
use futures_core::Stream;
use futures_util::{StreamExt, stream};
use locker_core::machine::Loss;
use locker_core::time::ClockJump;
use locker_core::{BackendError, OwnerHash, ProcessHash};
use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};

/// Something that happened in the background.
///
/// A locker needs nobody who listens: whatever can be repeated is being repeated, and a job learns of
/// its own loss from its guard. Events are for people and for their alarms. They are bounded: a
/// failure that lasts is told at most once per recheck interval (reports: once per try), however many
/// locks it concerns; a store's clock that goes on jumping, as often in each direction; and a reader
/// that is late gets [`Missed`](Self::Missed).
///
/// All of them are also written to [`tracing`](https://docs.rs/tracing), under the target
/// `distributed_locker`, with the fields `owner`, `process`, `locks`, `error` and so on.
///
/// | event | level | what to do about it |
/// | --- | --- | --- |
/// | [`LostLock`](Self::LostLock) | `WARN` | **Alert.** A job was stopped, or must stop. |
/// | [`ReporterEvent::Ended`] | `WARN` | **Alert.** All locks of the process are lost; it goes on under a new hash. |
/// | [`ReporterEvent::Crashed`] | `ERROR` | **Alert.** A bug: the locker is dead, start another one. |
/// | [`ReporterEvent::StoreClockJumped`] | `WARN` | **Alert**, on a store that expires by wall clock: it touches assumption A3. |
/// | [`AbortRefused`](Self::AbortRefused) | `ERROR` | **Alert**, where [`OnLost::Abort`](crate::OnLost::Abort) is used: it is not to be had. |
/// | [`ReporterEvent::System`] | `ERROR` | Alert if it lasts: the machine is out of something. |
/// | [`ReporterEvent::Failed`] | `WARN` | Alert if it lasts: after T without a report all locks are lost. |
/// | [`ExtendFailed`](Self::ExtendFailed), [`CheckFailed`](Self::CheckFailed) | `WARN` | Alert if it lasts: after L without an extension a lock is lost. |
/// | [`ReleaseUnconfirmed`](Self::ReleaseUnconfirmed), [`AttemptUnsettled`](Self::AttemptUnsettled) | `WARN` | Alert if it lasts: nobody may get these locks meanwhile. |
/// | [`ReporterEvent::WallClockJumped`] | `WARN` | Look at the machine: its clock was stepped, or it was paused (A4). |
/// | [`ReporterEvent::NotRetired`] | `WARN` | Nothing: the record runs out by itself. |
/// | [`Missed`](Self::Missed) | `WARN` | Read faster, or count what is missing as unknown. |
/// | [`ReporterEvent::Born`], [`ReporterEvent::Retired`] | `DEBUG` | Nothing. |
///
/// Beside the events there are spans, on the caller's side only: `acquire` and `release` at the level
/// `DEBUG`, and `run` at `INFO` around the job, so that what it logs itself bears its lock. Their
/// fields are `key`, `owner` and `token`. Neither spans nor events contain an address or a secret of the
/// store; they do contain keys and traces.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// About the process's own liveness.
    Reporter(ReporterEvent),
    /// A lock was lost.
    LostLock {
        /// Whose acquisition it was.
        owner: OwnerHash,
        /// Why, and until when it is safe to clean up.
        loss: Loss,
    },
    /// Held locks could not be extended. They are held until their deadlines, and the extension is
    /// being repeated.
    ExtendFailed(Trouble),
    /// Held locks could not be checked, so a loss would be seen later. The check is being repeated.
    CheckFailed(Trouble),
    /// Locks that were given back, or lost, could not be deleted at the store. They block others until
    /// the repetition succeeds or their records run out.
    ReleaseUnconfirmed(Trouble),
    /// Acquisitions of unknown outcome could not be settled: they may still be granted. Settling them
    /// is being repeated, and what they leave is deleted (S7). Where there is no error, the store
    /// answers, and its clock does not get beyond their end.
    AttemptUnsettled(Trouble),
    /// The kernel refused the timer of [`OnLost::Abort`](crate::OnLost::Abort). Whoever acquires with it
    /// gets [`AcquireError::AbortUnavailable`](crate::AcquireError::AbortUnavailable); where it could
    /// not be moved, it stands where it stood: earlier.
    AbortRefused(Arc<io::Error>),
    /// So many events were forgotten, because they were not read in time: the oldest of them, which
    /// may be losses. They are not written to `tracing` either if its writer was as late.
    Missed(u64),
}

/// Something about the process's own liveness.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReporterEvent {
    /// A new incarnation was confirmed by the store.
    Born(ProcessHash),
    /// A report failed, be it a birth, a renewal or a retirement; it is being repeated.
    Failed(BackendError),
    /// The incarnation has ended: all its locks are lost. A new one is being born.
    Ended {
        /// Which one.
        process: ProcessHash,
        /// Why.
        why: EndReason,
        /// How many locks were held under it. Each is told as a [`LostLock`](Event::LostLock), before this
        /// unless its guard was dropped in that moment; the first of very many may be among what was
        /// [missed](Event::Missed).
        locks: usize,
    },
    /// The process's record was given up in good order, and the store has confirmed it.
    Retired(ProcessHash),
    /// The process's record was given up, and the store has not confirmed that before it ran out by
    /// itself.
    NotRetired {
        /// Whose record it was.
        process: ProcessHash,
        /// The last failure, if the store was asked.
        error: Option<BackendError>,
    },
    /// The store's clock has moved against the machine's by more than the hard margin and what A1
    /// allows for the time between two answers: it was stepped, or another server answers. On a store
    /// that expires by wall clock this touches assumption A3. Where the primaries of a cluster go by
    /// clocks that differ so much, it is told again and again.
    StoreClockJumped(ClockJump),
    /// The machine's wall clock and boot clock have moved against each other by more than the hard
    /// margin: the clock was stepped, or the machine was paused without its boot clock noticing (A4).
    /// A time daemon that slews moves both alike.
    WallClockJumped(Duration),
    /// The operating system refused random bits for a new incarnation. They are asked for again.
    System(Arc<io::Error>),
    /// The Reporter's thread has ended by a fault of its own. All locks are lost, and nothing more is
    /// granted: start another locker.
    Crashed,
}

/// Why an incarnation ended against its will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// It could not report in time.
    Lapsed,
    /// Its record is gone from the store.
    RecordGone,
}

/// Requests about locks that failed in one way, told together.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Trouble {
    /// Whose locks, [`Trouble::SHOWN`] at most.
    pub owners: Vec<OwnerHash>,
    /// How many locks, since this was told the last time.
    pub locks: usize,
    /// The last failure. It is there but for one case of [`Event::AttemptUnsettled`].
    pub error: Option<BackendError>,
}

impl Trouble {
    /// How many owners are named.
    pub const SHOWN: usize = 16;
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reporter(event) => event.fmt(f),
            Self::LostLock { owner, loss } => write!(f, "{owner}: {loss}"),
            Self::ExtendFailed(trouble) => write!(f, "not extended: {trouble}"),
            Self::CheckFailed(trouble) => write!(f, "not checked: {trouble}"),
            Self::ReleaseUnconfirmed(trouble) => write!(f, "not confirmed as free: {trouble}"),
            Self::AttemptUnsettled(trouble) => write!(f, "may still be granted: {trouble}"),
            Self::AbortRefused(error) => {
                write!(
                    f,
                    "the kernel refused the timer of `OnLost::Abort`: {error}"
                )
            }
            Self::Missed(events) => write!(f, "{events} events were not read in time"),
        }
    }
}

impl fmt::Display for ReporterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Born(process) => write!(f, "{process} reports that it lives"),
            Self::Failed(error) => write!(f, "a liveness report failed: {error}"),
            Self::Ended {
                process,
                why,
                locks,
            } => write!(f, "{process} has ended with {locks} locks: {why}"),
            Self::Retired(process) => write!(f, "{process} was retired"),
            Self::NotRetired { process, error } => {
                write!(f, "{process} was not retired, and has run out")?;
                error.iter().try_for_each(|error| write!(f, ": {error}"))
            }
            Self::StoreClockJumped(ClockJump::Forward(by)) => {
                write!(f, "the store's clock jumped forward by {by:?}")
            }
            Self::StoreClockJumped(ClockJump::Back(by)) => {
                write!(f, "the store's clock jumped back by {by:?}")
            }
            Self::WallClockJumped(by) => {
                write!(f, "the wall clock moved against the boot clock by {by:?}")
            }
            Self::System(error) => write!(f, "the system refused random bits: {error}"),
            Self::Crashed => f.write_str("the Reporter has ended by a fault; all locks are lost"),
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lapsed => "it could not report in time",
            Self::RecordGone => "its record is gone from the store",
        })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} locks ({})", self.locks, self.named())?;
        let mut error = self.error.iter();
        error.try_for_each(|error| write!(f, ": {error}"))
    }
}

impl Trouble {
    fn named(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            for (n, owner) in self.owners.iter().enumerate() {
                let comma = if n == 0 { "" } else { ", " };
                write!(f, "{comma}{owner}")?;
            }
            f.write_str(if self.locks > self.owners.len() {
                ", …"
            } else {
                ""
            })
        })
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

    pub(crate) fn report(&self, event: ReporterEvent) {
        self.send(Event::Reporter(event));
    }

    /// What is sent from now on, until this life has ended and everything that was sent by then is
    /// read.
    pub(crate) fn subscribe(&self, life: watch::Receiver<Life>) -> Events {
        let subscribed = (self.0.subscribe(), life);
        let received = stream::unfold(subscribed, |(mut receiver, mut life)| async {
            let received = tokio::select! {
                biased;
                received = receiver.recv() => received,
                () = ended(&mut life) => receiver.try_recv().map_err(|nothing| match nothing {
                    TryRecvError::Lagged(events) => RecvError::Lagged(events),
                    TryRecvError::Empty | TryRecvError::Closed => RecvError::Closed,
                }),
            };
            let event = match received {
                Ok(event) => event,
                Err(RecvError::Lagged(events)) => Event::Missed(events),
                Err(RecvError::Closed) => return None,
            };
            Some((event, (receiver, life)))
        });
        Events(Box::pin(received.fuse()))
    }
}

/// Waits until the locker has ended.
async fn ended(life: &mut watch::Receiver<Life>) {
    // Without a sender there is no locker any more.
    drop(life.wait_for(|life| matches!(life, Life::Ended(_))).await);
}

/// The events of a locker from the subscription on, as a [`Stream`]. It ends with the locker: when its
/// Reporter has, whoever still has a handle.
pub struct Events(Pin<Box<dyn Stream<Item = Event> + Send + Sync>>);

impl Events {
    /// The next event; `None` when the locker has ended. In the place of events that were forgotten
    /// because they were not read in time comes [`Event::Missed`].
    ///
    /// # Cancel safety
    ///
    /// No event is lost when this is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.next().await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Writes events to `tracing` until the locker ends.
pub(crate) async fn write_to_tracing(mut events: Events) {
    while let Some(event) = events.next().await {
        write(&event);
    }
}

/// Errors go with their sources, which the contract of stores keeps free of secrets as well.
fn write(event: &Event) {
    macro_rules! trouble {
        ($trouble:ident, $what:literal) => {
            tracing::warn!(
                target: TARGET,
                locks = $trouble.locks,
                owners = %$trouble.named(),
                error = $trouble.error.as_ref().map(as_error),
                $what
            )
        };
    }
    match event {
        Event::Reporter(event) => write_report(event),
        Event::LostLock { owner, loss } => tracing::warn!(
            target: TARGET,
            key = %owner.key(),
            %owner,
            reason = %loss.reason,
            "a lock is lost"
        ),
        Event::ExtendFailed(trouble) => trouble!(trouble, "held locks could not be extended"),
        Event::CheckFailed(trouble) => trouble!(trouble, "held locks could not be checked"),
        Event::ReleaseUnconfirmed(trouble) => {
            trouble!(trouble, "the store does not confirm that locks are free");
        }
        Event::AttemptUnsettled(trouble) => {
            trouble!(trouble, "acquisitions may still be granted");
        }
        Event::AbortRefused(error) => tracing::error!(
            target: TARGET,
            error = as_error(&**error),
            "the kernel refused the timer of `OnLost::Abort`"
        ),
        Event::Missed(events) => {
            tracing::warn!(target: TARGET, events, "events were not read in time");
        }
    }
}

fn write_report(event: &ReporterEvent) {
    match event {
        ReporterEvent::Born(process) => {
            tracing::debug!(target: TARGET, %process, "the process reports that it lives");
        }
        ReporterEvent::Failed(error) => {
            tracing::warn!(target: TARGET, error = as_error(error), "a liveness report failed");
        }
        ReporterEvent::Ended {
            process,
            why,
            locks,
        } => tracing::warn!(
            target: TARGET,
            %process,
            locks,
            reason = %why,
            "the process has ended, and its locks are lost; it goes on under another hash"
        ),
        ReporterEvent::Retired(process) => {
            tracing::debug!(target: TARGET, %process, "the process was retired");
        }
        ReporterEvent::NotRetired { process, error } => tracing::warn!(
            target: TARGET,
            %process,
            error = error.as_ref().map(as_error),
            "the process was not retired; its record has run out"
        ),
        ReporterEvent::StoreClockJumped(ClockJump::Forward(by)) => {
            tracing::warn!(target: TARGET, ?by, "the store's clock jumped forward");
        }
        ReporterEvent::StoreClockJumped(ClockJump::Back(by)) => {
            tracing::warn!(target: TARGET, ?by, "the store's clock jumped back");
        }
        ReporterEvent::WallClockJumped(by) => {
            tracing::warn!(target: TARGET, ?by, "the wall clock moved against the boot clock");
        }
        ReporterEvent::System(error) => tracing::error!(
            target: TARGET,
            error = as_error(&**error),
            "the system refused random bits for a new incarnation"
        ),
        ReporterEvent::Crashed => tracing::error!(
            target: TARGET,
            "the Reporter has ended by a fault; all locks are lost, start another locker"
        ),
    }
}

fn as_error<'a>(error: &'a (impl Error + 'static)) -> &'a (dyn Error + 'static) {
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::Ending;

    #[tokio::test]
    async fn what_was_not_read_in_time_is_counted() {
        let sender = EventSender::new();
        let life = watch::Sender::new(Life::Unborn(None));
        let mut events = sender.subscribe(life.subscribe());
        let most = 256;
        for n in 0..most + 44 {
            sender.report(ReporterEvent::WallClockJumped(Duration::from_secs(n)));
        }
        // What was sent before the end is still told, whoever could still send.
        life.send_replace(Life::Ended(Ending::Gone));
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            told.push(event.to_string());
        }
        assert_eq!(told[0], "44 events were not read in time");
        assert!(told[1].ends_with("by 44s"), "{}", told[1]);
        assert_eq!(told.len() as u64, most + 1);
        assert!(events.next().await.is_none(), "it has ended");
    }
}
