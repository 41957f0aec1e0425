//! Releasing everything when the process is told to end.

use crate::error::TerminateError;
use crate::forked::MadeIn;
use crate::shared::Shared;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// The end of a locker on SIGINT or SIGTERM.
///
/// Dropping it does not undo the signal handler: a signal still drains the locker, but nobody learns when
/// everything is released. Holding it does not keep the locker alive. A forked child inherits that the
/// signals do nothing else, and has nobody who listens.
#[derive(Debug)]
#[must_use = "the process is not ended by these signals any more: wait for `finished`, then end it"]
pub struct Shutdown {
    /// The process that listens. It keeps nothing of a locker that has ended.
    made_in: MadeIn,
    task: JoinHandle<Result<(), TerminateError>>,
    ended: Option<Result<(), TerminateError>>,
}

impl Shutdown {
    pub(crate) fn start(shared: Arc<Shared>, grace: Duration) -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Not aborted when this is dropped: the default action of the signals is gone for good, and a
        // process that neither ends nor drains would be killed with all its locks.
        let made_in = shared.made_in;
        let task = tokio::spawn(async move {
            let why = tokio::select! {
                _ = interrupt.recv() => "the process got SIGINT",
                _ = terminate.recv() => "the process got SIGTERM",
                _ = shared.ended() => "the locker has ended",
            };
            shared.terminate(why, grace).await
        });
        Ok(Self {
            made_in,
            task,
            ended: None,
        })
    }

    /// Waits for a signal, or for another end of the locker, and then until every lock is released and
    /// the process's record is gone.
    ///
    /// # Errors
    ///
    /// As [`Locker::terminate`](crate::Locker::terminate), and [`TerminateError::Abandoned`] when the runtime that listened to
    /// the signals has ended.
    ///
    /// # Panics
    ///
    /// If the task that listened to them has panicked: with its own panic.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and called again, also after it has ended.
    pub async fn finished(&mut self) -> Result<(), TerminateError> {
        if self.made_in.is_elsewhere() {
            return Err(TerminateError::Forked);
        }
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let ended = match (&mut self.task).await {
            Ok(ended) => ended,
            Err(error) => {
                self.ended = Some(Err(TerminateError::Abandoned));
                if error.is_panic() {
                    resume_unwind(error.into_panic());
                }
                // A task that was cancelled belongs to a runtime that has ended.
                Err(TerminateError::Abandoned)
            }
        };
        self.ended = Some(ended.clone());
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::panic::AssertUnwindSafe;

    fn over(task: JoinHandle<Result<(), TerminateError>>) -> Shutdown {
        Shutdown {
            made_in: MadeIn::this_process(),
            task,
            ended: None,
        }
    }

    #[tokio::test]
    async fn a_shutdown_that_panics_is_no_end_in_good_order() {
        let task = tokio::spawn(async { panic!("a bug, as it is to be seen") });
        let mut shutdown = over(task);
        let finished = AssertUnwindSafe(shutdown.finished()).catch_unwind().await;
        assert!(finished.is_err(), "{finished:?}");
        let again = shutdown.finished().await;
        assert!(matches!(again, Err(TerminateError::Abandoned)), "{again:?}");
    }

    #[tokio::test]
    async fn a_shutdown_whose_runtime_has_ended_has_released_nothing() {
        let task = tokio::spawn(std::future::pending());
        task.abort();
        let mut shutdown = over(task);
        let finished = shutdown.finished().await;
        assert!(
            matches!(finished, Err(TerminateError::Abandoned)),
            "{finished:?}"
        );
    }
}
