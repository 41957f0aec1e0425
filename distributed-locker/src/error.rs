//! What can go wrong, and what the caller then knows about the lock.

use locker_core::machine::Loss;
use locker_core::{BackendError, InvalidIdentity, InvalidTiming, Key, LockData};
use std::io;
use std::sync::Arc;
use thiserror::Error;

/// A locker that could not be started. No lock is held.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The timing leaves no validity, or the store cannot keep it.
    #[error(transparent)]
    Timing(#[from] InvalidTiming),
    /// The host name breaks the rule of texts.
    #[error("the host name cannot be used; set one with `LockerBuilder::host`")]
    Host(#[source] InvalidIdentity),
    /// The store could not be opened.
    #[error("the store could not be opened, so no lock is held")]
    Store(#[source] BackendError),
    /// The process could not report that it lives within the start timeout.
    #[error("the process could not report that it lives, so no lock is held")]
    NotRunning(#[from] NotRunning),
    /// The operating system refused a thread, a timer or random bits, or the host's name.
    #[error("the operating system refused what the Reporter needs, so no lock is held")]
    System(#[source] io::Error),
}

/// The process has no confirmed, recent liveness report, so it can own nothing.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum NotRunning {
    /// No report was confirmed in time.
    #[error("no liveness report was confirmed in time; the Reporter keeps trying")]
    Unreported(#[source] Option<Arc<BackendError>>),
    /// Reports are confirmed, but where the lock lies the store calls the process dead: its parts do not
    /// see each other's writes.
    #[error("where the lock lies the store calls this process dead, whatever it reports")]
    Denied,
    /// The locker was terminated, or its Reporter has ended.
    #[error("the locker has ended; start another one")]
    Ended,
    /// This is a forked child of the process that started the locker. It has no Reporter.
    #[error("a forked child cannot report for its parent, and must start its own locker")]
    Forked,
}

impl NotRunning {
    /// What it is after so many denials: once is what happens to a process whose record was deleted.
    pub(crate) fn after(self, denials: u32) -> Self {
        match self {
            Self::Unreported(None) if denials > 1 => Self::Denied,
            why => why,
        }
    }
}

/// An acquisition that failed. Each text says what is known about the lock.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// The key breaks the rule of keys. The store was not asked.
    #[error("the lock is not held: its key cannot be used")]
    InvalidKey(#[source] InvalidIdentity),
    /// The options do not fit this locker. The store was not asked.
    #[error("the lock is not held: {0}")]
    InvalidOptions(&'static str),
    /// The locker takes no more work.
    #[error("the lock is not held: the locker is draining ({0})")]
    Draining(String),
    /// The process cannot show that it lives.
    #[error("the lock is not held: the process cannot show that it lives")]
    NotRunning(#[source] NotRunning),
    /// The store could not be asked. If it has granted the lock all the same, the lock is given
    /// back in the background.
    #[error("the lock is not held: the store could not be asked")]
    Store(#[source] BackendError),
    /// The lock was granted, but the answer came too late to be of use; it is being given back.
    #[error("the lock is not held: it was granted too late to be used, and is being given back")]
    TooLate,
    /// The kernel refused the timer of [`OnLost::Abort`](crate::OnLost::Abort), or its thread does not
    /// get to it; the lock was granted, and is being given back.
    #[error("the lock is not held: there is no timer for `OnLost::Abort`; it is being given back")]
    AbortUnavailable(#[source] io::Error),
    /// This is a forked child of the process that started the locker.
    #[error("the lock is not held: a forked child must start its own locker")]
    Forked,
}

/// A read that failed. Nothing was changed, and nothing is known about the lock.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The key breaks the rule of keys. The store was not asked.
    #[error("the lock was not read: its key cannot be used")]
    InvalidKey(#[source] InvalidIdentity),
    /// The store could not be asked; in a forked child, because its connections are its parent's.
    #[error("the lock was not read, and may be held or free: the store could not be asked")]
    Store(#[source] BackendError),
}

/// A run that did not complete under its lock.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError<T> {
    /// The job was not started.
    #[error("the job was not run")]
    Acquire(#[from] AcquireError),
    /// The lock was lost before the job had ended and was confirmed. Somebody else may have run
    /// the job since.
    #[error("the job lost its lock")]
    Lost {
        /// Why, and how long it is safe to clean up if it was seen coming.
        #[source]
        loss: Loss,
        /// What the job returned, if it returned all the same. It was computed after the loss, or
        /// the loss was seen only when it was done.
        late: Option<T>,
    },
    /// The job has forked, and this is the child: the lock is its parent's, which has a job, a value
    /// and a result of its own. Whether the lock was still held when the job ended here is not known.
    #[error("the job ran to its end in a forked child, and the lock is the parent process's")]
    Forked {
        /// What the job returned in the child.
        value: T,
    },
}

/// A mutex that did not run its job to the end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MutexError<T> {
    /// The lock did not become free in time. The job was not run.
    #[error("the job was not run: the lock {} is held by {}", .holder.owner.key(), .holder.owner)]
    TimedOut {
        /// Who holds it.
        holder: Box<LockData>,
    },
    /// The job was not run, lost its lock, or has forked.
    #[error(transparent)]
    Run(#[from] RunError<T>),
}

/// A release that was not confirmed as the owner's own.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lock was lost before it was released, as its deadlines or the store say. What the store may
    /// still have of this owner is deleted in the background.
    #[error("the lock was lost before it was released")]
    Lost(#[source] Loss),
    /// The store has not confirmed the release: it is being repeated in the background, and the
    /// lock may be held until then, or until its record runs out: after one lock TTL, or with the
    /// process where the store knows no TTL of a lock. Or an answer was lost, and the
    /// repetition found that the lock is not its owner's any more: because the first release had
    /// freed it, as nearly always, or because it was lost in the same moment, which nobody can tell
    /// apart. The lock was valid until the release was asked for.
    #[error(
        "the release is not confirmed: either it was done and its answer is lost, or the lock may \
         still be held while it is being repeated"
    )]
    Unconfirmed(#[source] BackendError),
    /// This is a forked child of the process that started the locker. The lock is its parent's.
    #[error("the lock is the parent process's: a forked child cannot release it")]
    Forked,
}

/// An extension by hand that did not succeed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The lock is lost.
    #[error("the lock is lost")]
    Lost(#[source] Loss),
    /// The store could not be asked. The lock is held until its deadline, and the Reporter goes on
    /// extending it.
    #[error("the lock is still held, but was not extended by this call")]
    Store(#[source] BackendError),
    /// This is a forked child of the process that started the locker.
    #[error("the lock is the parent process's: a forked child cannot extend it")]
    Forked,
}

/// Why a job should stop.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Interrupted {
    /// The lock is lost, or its guard has given it back.
    #[error(transparent)]
    Lost(#[from] Loss),
    /// The locker takes no more work, and waits for this job to end. The lock is still held.
    #[error("the locker is draining ({0})")]
    Draining(String),
}

/// A termination of which not everything is confirmed. The locker takes no more work, and what goes on
/// goes on in the background.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum TerminateError {
    /// Some locks were not free at the end of the grace. The process's record stays until they are, or
    /// until the process ends; `terminate` may be called again.
    #[error("{} locks are not free yet: {}", keys.len(), list(keys))]
    StillRunning {
        /// The locks that are held, being acquired, or on their way back.
        keys: Vec<Key>,
    },
    /// Nothing is held any more, but the store has not confirmed that the process's record is gone. It
    /// keeps nobody from a lock that was released, and runs out by itself within the liveness TTL.
    #[error("every lock was given back, but the process's record may still be there for a while")]
    Unconfirmed(#[source] Option<BackendError>),
    /// Whoever was to see to it has ended before it was done: the Reporter by a fault of its own
    /// ([`ReporterEvent::Crashed`](crate::ReporterEvent::Crashed)), or the runtime of a
    /// [`Shutdown`](crate::Shutdown). Whatever is left at the store runs out by itself.
    #[error("nobody was left to give the locks back; they become free when their time runs out")]
    Abandoned,
    /// This is a forked child of the process that started the locker. The locks are its parent's, whose
    /// locker goes on.
    #[error("the locks are the parent process's: a forked child cannot terminate its locker")]
    Forked,
}

fn list(keys: &[Key]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = keys.iter().take(SHOWN).map(Key::as_str).collect();
    let more = if keys.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
