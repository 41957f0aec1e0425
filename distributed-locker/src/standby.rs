//! Holding a lock whenever it is free.

use crate::acquire::{Acquired, acquire};
use crate::error::AcquireError;
use crate::guard::LockGuard;
use crate::options::{AcquireOptions, HeartbeatPolicy, Wait};
use crate::shared::Shared;
use locker_core::{ErrorKind, Key};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Stands by for a lock: becomes its owner on its release, on the crash of its owner, and by
/// looking at it periodically.
///
/// Its guards last as long as the process: heartbeats are [automatic](HeartbeatPolicy::Automatic)
/// here, unless the options ask for [`HeartbeatPolicy::Required`].
///
/// ```
/// # use distributed_locker::{AcquireOptions, AcquireError, Locker, memory};
/// # use std::time::Duration;
/// # async fn consume() {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let locker = Locker::builder(memory()).start().await?;
/// let mut standby = locker.standby("consumer", AcquireOptions::new())?;
/// loop {
///     let guard = match standby.next().await {
///         Ok(guard) => guard,
///         Err(AcquireError::Draining(_)) => break, // the program is ending
///         Err(error) => return Err(error.into()),
///     };
///     tokio::select! {
///         () = consume() => {}
///         loss = guard.lost() => eprintln!("{loss}; standing by again"),
///     }
///     # locker.drain("the example has been read");
/// }
/// # Ok(())
/// # }
/// ```
///
/// It is no handle of its locker: when the last [`Locker`](crate::Locker) is dropped the locker drains,
/// and the standby ends with [`AcquireError::Draining`].
pub struct Standby {
    shared: Arc<Shared>,
    key: Key,
    options: AcquireOptions,
}

impl fmt::Debug for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standby")
            .field("key", &self.key)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Standby {
    pub(crate) fn new(shared: Arc<Shared>, key: Key, options: AcquireOptions) -> Self {
        let mut options = options.wait(Wait::Forever);
        // A leader leads until it ends: there is no job whose progress a beat would show.
        options.heartbeat.get_or_insert(HeartbeatPolicy::Automatic);
        Self {
            shared,
            key,
            options,
        }
    }

    /// The lock.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Waits until this process holds the lock. Outages of the store are waited out.
    ///
    /// # Errors
    ///
    /// [`AcquireError`] only where waiting is useless: the locker is draining or has ended, or the
    /// store refuses.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped nothing is held.
    pub async fn next(&mut self) -> Result<LockGuard, AcquireError> {
        loop {
            match acquire(&self.shared, &self.key, &self.options).await {
                Ok(Acquired::Guard(guard)) => return Ok(guard),
                Ok(Acquired::SomeoneElseHoldsLock(_)) | Err(AcquireError::TooLate) => {}
                Err(AcquireError::Store(error)) if is_passing(error.kind()) => {}
                // The thread of the kernel's timer has stood still.
                Err(AcquireError::AbortUnavailable(error))
                    if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error),
            }
            let pause = self.shared.time.now() + self.shared.timing.retry_after;
            self.shared.time.sleep_until(pause).await;
        }
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    kind.is_transient() || kind == ErrorKind::Corrupt
}
