//! Releasing everything when the process is told to end.

use crate::error::StillRunning;
use crate::locker::Locker;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// The end of a locker on SIGINT or SIGTERM. Dropping it stops listening to the signals; a draining
/// that has begun goes on.
#[derive(Debug)]
pub struct Shutdown {
    task: JoinHandle<Result<(), StillRunning>>,
    ended: Option<Result<(), StillRunning>>,
}

impl Shutdown {
    pub(crate) fn start(locker: Locker, grace: Duration) -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let task = tokio::spawn(async move {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            locker.drain(format!("the process got {name}"));
            locker.terminate(grace).await
        });
        Ok(Self { task, ended: None })
    }

    /// Waits for a signal, and then until every lock is released and the process's record is gone.
    ///
    /// # Errors
    ///
    /// [`StillRunning`] when jobs outlasted the grace; they keep their locks.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and called again, also after it has ended.
    pub async fn finished(&mut self) -> Result<(), StillRunning> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        // A task that was cancelled belongs to a runtime that has ended, and so has the locker.
        let ended = (&mut self.task).await.unwrap_or(Ok(()));
        self.ended = Some(ended.clone());
        ended
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.task.abort();
    }
}
