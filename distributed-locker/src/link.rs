//! One side's connection to the store: opened when it is needed, closed when it is dead, and every
//! request on it bounded in time.
//!
//! It is dead when it broke. Of one on which a request runs out of time nobody knows, and the sides
//! differ in what they do with it. The Reporter may not wait to find out, because the report or extend
//! after it must get through ([`Timing`](locker_core::Timing)): its connection is closed at once. A
//! caller's is [doubted](doubt), and [another](openings) opened beside it.
//!
//! Where only a [part] of the store is silent, neither is done for its sake more than now and then.

mod doubt;
mod openings;
mod part;
#[cfg(test)]
mod tests;

use crate::forked::MadeIn;
use crate::time::Time;
use doubt::Signs;
use futures_util::FutureExt;
use locker_core::backend::{Connect, Side};
use locker_core::{Backend, BackendError, Effect, ErrorKind, Instant};
use openings::{Openings, PATIENCE};
use part::Part;
pub(crate) use part::Silence;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// A connection that is rebuilt after it failed.
///
/// One that is closed is closed before the next one is opened: the link gives up its own hold, and
/// requests still in flight on it end by their own time-outs.
#[derive(Debug)]
pub(crate) struct Link {
    connect: Arc<dyn Connect>,
    side: Side,
    /// Connections belong to this runtime, whoever asks for them.
    runtime: Handle,
    /// A forked child has a copy of each socket, and the store would take what it writes there for its
    /// parent's (S8).
    made_in: MadeIn,
    time: Time,
    timeout: Duration,
    current: Arc<Mutex<Current>>,
    /// Held by the one who opens a connection.
    openings: tokio::sync::Mutex<Openings>,
}

#[derive(Debug, Default)]
struct Current {
    open: Option<Open>,
    /// How many there have been.
    generation: u64,
    /// How often it was doubted because of those who left, since something was answered. Each time
    /// that takes twice as long: the store may just be slower than they are patient (F12).
    in_vain: u32,
    part: Part,
}

/// A connection to be used.
#[derive(Debug, Clone)]
struct Open {
    backend: Arc<dyn Backend>,
    generation: u64,
    signs: Signs,
}

/// A request that is under way. Dropped before it is over, its caller has left.
struct UnderWay<'a> {
    link: &'a Link,
    generation: u64,
    sent: Instant,
    is_over: bool,
}

/// How often these times double: with the default request timeout, to a minute and a half.
const MOST_DOUBLINGS: u32 = 6;

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
            made_in: MadeIn::this_process(),
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
        self.send(request, Silence::IsNews).await
    }

    /// The same, about what was answered the last time or not.
    ///
    /// # Cancel safety
    ///
    /// As [`call`](Self::call).
    pub(crate) async fn send<T, F>(
        &self,
        request: impl FnOnce(Arc<dyn Backend>) -> F,
        silence: Silence,
    ) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, BackendError>>,
    {
        // Before anything is locked: in a forked child a thread may hold it that does not exist there.
        if self.made_in.is_elsewhere() {
            return Err(forked());
        }
        let asked = self.time.now();
        let deadline = asked + self.timeout;
        let ((backend, generation), was_open, sent) = match self.opened() {
            Some(open) if open.signs.doubt().is_none() => (open.parts(), true, asked),
            opened => {
                let was_open = opened.is_some();
                // Boxed: it is rare, and larger than all the rest.
                let open = Box::pin(self.any(deadline)).await?;
                (open.parts(), was_open, self.time.now())
            }
        };
        let deadline = deadline.max(sent + Duration::from_millis(1));
        let mut under_way = UnderWay {
            link: self,
            generation,
            sent,
            is_over: false,
        };
        // A bug in a client must not end the Reporter, and with it every lock of the process. The
        // connection is closed below, so nothing that the panic has left broken is used again.
        let request = AssertUnwindSafe(async move { request(backend).await });
        let mut request = pin!(request.catch_unwind());
        let answer = self.time.timeout_at(deadline, &mut request).await;
        under_way.is_over = true;
        match answer {
            Some(Ok(answer)) => {
                match &answer {
                    Err(error) if error.kind().breaks_connection() => self.reset(generation),
                    Err(error) if error.is_unanswered() => {}
                    Ok(_) | Err(_) => self.answered(generation, sent),
                }
                answer
            }
            Some(Err(_)) => {
                self.reset(generation);
                let text = "the store's client has panicked";
                let error = BackendError::new(ErrorKind::Unavailable, Effect::Unknown, text);
                Err(error)
            }
            None => {
                // A request that shared its time with the opening had little, and proves nothing.
                if was_open {
                    self.silent(generation, sent, silence);
                }
                Err(BackendError::timeout())
            }
        }
    }

    /// A connection for one request, until `deadline`: a new one, or the doubted one.
    async fn any(&self, deadline: Instant) -> Result<Open, BackendError> {
        let another = || self.another(self.timeout * PATIENCE);
        if let Some(doubt) = self.opened().and_then(|open| open.signs.doubt()) {
            // Who does not wait sees to it all the same that another one is being opened.
            let wait = doubt.wait(self.timeout);
            let ended = self.time.timeout(wait, another()).await;
            match (ended, self.opened()) {
                (Some(Ok(open)), _) | (_, Some(open)) => return Ok(open),
                (Some(Err(failure)), None) => return Err(failure),
                // It was closed meanwhile.
                (None, None) => {}
            }
        }
        let left = deadline.since(self.time.now());
        let opened = self.time.timeout(left, another()).await;
        opened.unwrap_or_else(|| Err(not_in_time()))
    }

    /// A connection that is not doubted; if there is none, one that is opened within `limit`. The
    /// doubted one where it is too soon to open another.
    async fn another(&self, limit: Duration) -> Result<Open, BackendError> {
        let undoubted = || self.opened().filter(|open| open.signs.doubt().is_none());
        if let Some(open) = undoubted() {
            return Ok(open);
        }
        let mut openings = self.openings.lock().await;
        openings.forget_ended();
        if let Some(open) = undoubted() {
            return Ok(open);
        }
        let (now, has_one) = (self.time.now(), self.opened().is_some());
        if openings.is_due(now, self.timeout, has_one) {
            openings.begin(now, self.runtime.spawn(self.opening(limit)));
        }
        openings.first().await?;
        self.opened().ok_or_else(|| {
            let text = "the connection to the store broke at once";
            BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, text)
        })
    }

    /// Opens a connection, which is this link's from then on if it has none that is sound.
    fn opening(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<(), BackendError>> + Send + 'static {
        let (connect, side, time) = (Arc::clone(&self.connect), self.side, self.time.clone());
        let current = Arc::clone(&self.current);
        async move {
            let opened = time.timeout(limit, connect.connect(side)).await;
            let opened = opened.unwrap_or_else(|| Err(not_in_time()));
            // What is one too many is dropped after the lock.
            let mut current = lock(&current);
            let (ended, _spare) = match opened {
                Ok(backend) => (Ok(()), current.replace(backend)),
                Err(failure) => {
                    if let Some(open) = &mut current.open {
                        open.signs.cannot_be_replaced();
                    }
                    (Err(failure), None)
                }
            };
            drop(current);
            ended
        }
    }

    fn opened(&self) -> Option<Open> {
        self.current().open.clone()
    }

    /// A request that was sent then was answered on this connection.
    fn answered(&self, generation: u64, sent: Instant) {
        let now = self.time.now();
        let mut current = self.current();
        if let Some(open) = current.of(generation) {
            open.signs.answered(now, sent);
            current.in_vain = 0;
        }
    }

    /// Somebody who asked then waits no longer for an answer on this connection.
    fn left(&self, generation: u64, sent: Instant) {
        let now = self.time.now();
        // Whoever leaves never waits here: in a forked child a thread may hold it that does not exist
        // there. Where one does exist this waiting is not counted, and there are others.
        let Ok(mut current) = self.current.try_lock() else {
            return;
        };
        let enough = self.timeout * 2_u32.pow(current.in_vain.min(MOST_DOUBLINGS));
        if let Some(open) = current.of(generation)
            && open.signs.left(now, sent, enough)
        {
            current.in_vain += 1;
        }
    }

    /// A request that was sent then has run out of time on this connection.
    fn silent(&self, generation: u64, sent: Instant, silence: Silence) {
        let now = self.time.now();
        let is_callers = self.side == Side::Caller;
        let mut current = self.current();
        let Current { open, part, .. } = &mut *current;
        let Some(open) = open.as_mut().filter(|it| it.generation == generation) else {
            return;
        };
        let may_be_a_part = if is_callers {
            open.signs.doubt().is_none() && open.signs.answered_since(sent)
        } else {
            silence == Silence::IsKnown
        };
        if may_be_a_part && !part.is_due(now, self.timeout) {
            return;
        }
        let is_dead = !is_callers || open.signs.lost(now, sent);
        drop(current);
        if is_dead {
            self.reset(generation);
        }
    }

    /// Closes the connection that failed, unless a newer one has taken its place.
    fn reset(&self, generation: u64) {
        let mut current = self.current();
        let failed = current.open.take_if(|open| open.generation == generation);
        drop(current);
        // What a client does when it is closed is done outside of the lock.
        drop(failed);
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        lock(&self.current)
    }

    /// Opens the connection, within `limit`.
    pub(crate) async fn open(&self, limit: Duration) -> Result<Arc<dyn Backend>, BackendError> {
        self.another(limit).await.map(|open| open.backend)
    }
}

impl Open {
    fn parts(self) -> (Arc<dyn Backend>, u64) {
        (self.backend, self.generation)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.link.left(self.generation, self.sent);
        }
    }
}

impl Current {
    /// The connection, if it is still this one.
    fn of(&mut self, generation: u64) -> Option<&mut Open> {
        let open = self.open.as_mut();
        open.filter(|open| open.generation == generation)
    }

    /// A new connection: in the place of none, or of a doubted one. Answers the one that is too many.
    fn replace(&mut self, backend: Arc<dyn Backend>) -> Option<Arc<dyn Backend>> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.signs.doubt().is_none())
        {
            return Some(backend);
        }
        self.generation += 1;
        let open = Open {
            backend,
            generation: self.generation,
            signs: Signs::NONE,
        };
        self.open.replace(open).map(|old| old.backend)
    }
}

fn lock(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forked() -> BackendError {
    BackendError::new(
        ErrorKind::Config,
        Effect::NotApplied,
        "this is a forked child of the process that started the locker, and the connection is its \
         parent's: nothing was sent; start another locker in the child",
    )
}

fn not_in_time() -> BackendError {
    BackendError::new(
        ErrorKind::Timeout,
        Effect::NotApplied,
        "the store could not be connected in time",
    )
}
