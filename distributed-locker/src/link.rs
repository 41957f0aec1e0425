//! One side's connection to the store: opened when it is needed, closed after a time-out, and every
//! request on it bounded in time.

mod openings;

use crate::time::Time;
use futures_util::FutureExt;
use locker_core::backend::{Connect, Side};
use locker_core::{Backend, BackendError, Effect, ErrorKind};
use openings::{Openings, PATIENCE};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// A connection that is rebuilt after it failed.
///
/// The old connection is closed before the next one is opened: the link gives up its own hold, and
/// requests still in flight on it end by their own time-outs.
#[derive(Debug)]
pub(crate) struct Link {
    connect: Arc<dyn Connect>,
    side: Side,
    /// Connections belong to this runtime, whoever asks for them.
    runtime: Handle,
    time: Time,
    timeout: Duration,
    current: Arc<Mutex<Current>>,
    /// Held by the one who opens a connection.
    openings: tokio::sync::Mutex<Openings>,
}

#[derive(Debug, Default)]
struct Current {
    backend: Option<Arc<dyn Backend>>,
    generation: u64,
}

impl Link {
    /// A link of the runtime on which this is called.
    pub(crate) fn new(
        connect: Arc<dyn Connect>,
        side: Side,
        time: Time,
        timeout: Duration,
    ) -> Self {
        let runtime = Handle::current();
        Self {
            connect,
            side,
            runtime,
            time,
            timeout,
            current: Arc::default(),
            openings: tokio::sync::Mutex::default(),
        }
    }

    /// Sends one request, within the request timeout, connection included.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the request was sent or not; the backend sees to it that it is never
    /// half done.
    pub(crate) async fn call<T, F>(
        &self,
        request: impl FnOnce(Arc<dyn Backend>) -> F,
    ) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, BackendError>>,
    {
        let deadline = self.time.now() + self.timeout;
        let was_open = self.opened().is_some();
        let opened = self
            .time
            .timeout(self.timeout, self.backend(self.timeout * PATIENCE))
            .await;
        let (backend, generation) = opened.unwrap_or_else(|| Err(not_in_time()))?;
        let left = deadline
            .since(self.time.now())
            .max(Duration::from_millis(1));
        // A bug in a client must not end the Reporter, and with it every lock of the process. The
        // connection is closed below, so nothing that the panic has left broken is used again.
        let request = AssertUnwindSafe(async move { request(backend).await }).catch_unwind();
        let (answer, may_be_sound) = match self.time.timeout(left, request).await {
            Some(Ok(answer)) => (answer, false),
            Some(Err(_)) => {
                let text = "the store's client has panicked";
                let error = BackendError::new(ErrorKind::Unavailable, Effect::Unknown, text);
                (Err(error), false)
            }
            // A request that shared its time with the opening had little, and proves nothing.
            None => (Err(BackendError::timeout()), !was_open),
        };
        if let Err(error) = &answer
            && error.kind().breaks_connection()
            && !may_be_sound
        {
            self.reset(generation);
        }
        answer
    }

    /// The connection; if there is none, one that is opened within `limit`.
    async fn backend(&self, limit: Duration) -> Result<(Arc<dyn Backend>, u64), BackendError> {
        if let Some(open) = self.opened() {
            return Ok(open);
        }
        let mut openings = self.openings.lock().await;
        openings.forget_ended();
        if let Some(open) = self.opened() {
            return Ok(open);
        }
        let (now, timeout) = (self.time.now(), self.timeout);
        let begin = || self.runtime.spawn(self.opening(limit));
        openings.first(now, timeout, begin).await?;
        self.opened().ok_or_else(|| {
            let text = "the new connection to the store broke at once";
            BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, text)
        })
    }

    /// Opens a connection, which is this link's from then on if it has none.
    fn opening(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<(), BackendError>> + Send + 'static {
        let (connect, side, time) = (Arc::clone(&self.connect), self.side, self.time.clone());
        let current = Arc::clone(&self.current);
        async move {
            let opened = time.timeout(limit, connect.connect(side)).await;
            let backend = opened.unwrap_or_else(|| Err(not_in_time()))?;
            // What is one too many is dropped after the lock.
            let _spare = {
                let mut current = lock(&current);
                if current.backend.is_none() {
                    current.generation += 1;
                    current.backend.replace(backend)
                } else {
                    Some(backend)
                }
            };
            Ok(())
        }
    }

    fn opened(&self) -> Option<(Arc<dyn Backend>, u64)> {
        let current = self.current();
        let backend = current.backend.as_ref().map(Arc::clone)?;
        Some((backend, current.generation))
    }

    /// Closes the connection that failed, unless a newer one has taken its place.
    fn reset(&self, generation: u64) {
        let mut current = self.current();
        let failed = if current.generation == generation {
            current.backend.take()
        } else {
            None
        };
        drop(current);
        // What a client does when it is closed is done outside of the lock.
        drop(failed);
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        lock(&self.current)
    }

    /// Opens the connection, within `limit`.
    pub(crate) async fn open(&self, limit: Duration) -> Result<Arc<dyn Backend>, BackendError> {
        self.backend(limit).await.map(|(backend, _)| backend)
    }
}

fn lock(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_in_time() -> BackendError {
    BackendError::new(
        ErrorKind::Timeout,
        Effect::NotApplied,
        "the store could not be connected in time",
    )
}
