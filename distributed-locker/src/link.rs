//! One side's connection to the store: opened when it is needed, closed when it is dead, and every
//! request on it bounded in time.
//!
//! *When is a connection dead?* When it broke. But one whose other end is gone, and nobody said so,
//! looks like one whose store is slow: a request on it runs out of time. The Reporter may not wait to
//! find out which, because the report or extend after it must get through
//! ([`Timing`](locker_core::Timing)): its connection is closed at once. A caller's is *doubted*: with
//! the next request another one is opened, and takes its place when it gets through. A request waits for
//! that for a quarter of its time, and then goes out on the doubted one. If requests are answered there,
//! none waits any more, and if no other connection can be had, the doubt is dropped; if the next one is
//! lost too, it is closed. It is replaced also when it answers: it may consist of several sockets, of
//! which one is dead.
//!
//! *And if nobody waits for so long?* A caller with less patience than a request has takes its request
//! with it, and nobody hears whether it would have been answered. So a connection is also doubted when
//! those who left have waited for a request timeout together, and nothing was answered meanwhile. It is
//! never closed for that: where the store is slower than they are patient it may be as sound as any
//! other. And if nothing is answered on the next one either, it takes twice as long, and so on.
//!
//! *Why not close it at once?* Where the store is slow, because of the network or of its load, opening
//! a connection is the slowest of all, and the most expensive for the store: it would be asked for
//! connections and nothing else, and nobody would get anything done (F12).

mod openings;

use crate::time::Time;
use futures_util::FutureExt;
use locker_core::backend::{Connect, Side};
use locker_core::{Backend, BackendError, Effect, ErrorKind, Instant};
use openings::{Openings, PATIENCE};
use std::panic::AssertUnwindSafe;
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
    /// How often it was doubted because of those who left, since something was answered.
    in_vain: u32,
}

/// A connection to be used.
#[derive(Debug, Clone)]
struct Open {
    backend: Arc<dyn Backend>,
    generation: u64,
    /// How long those who left have waited since something was answered, and until when that was
    /// counted: those who waited at the same time waited once.
    unanswered: Duration,
    counted: Instant,
    doubt: Option<Doubt>,
}

/// A request that is under way. Dropped before it is over, its caller has left.
struct UnderWay<'a> {
    link: &'a Link,
    generation: u64,
    sent: Instant,
    is_over: bool,
}

/// A request has run out of time on a connection.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Instant,
    /// One that was sent after that was answered.
    answers: bool,
}

/// Which part of a request's time is left to a new connection to get through, before the request goes
/// out on the doubted one.
const CHANCE: u32 = 4;

/// How often the patience with silence doubles: with the default request timeout, to a minute and a half.
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
        let opened = self.opened();
        let was_open = opened.is_some();
        let open = match opened {
            Some(open) if open.doubt.is_none() => open,
            // Boxed: it is rare, and larger than all the rest.
            _ => Box::pin(self.any(deadline)).await?,
        };
        let (backend, generation) = (open.backend, open.generation);
        let sent = self.time.now();
        let left = deadline.since(sent).max(Duration::from_millis(1));
        let mut under_way = UnderWay {
            link: self,
            generation,
            sent,
            is_over: false,
        };
        // A bug in a client must not end the Reporter, and with it every lock of the process. The
        // connection is closed below, so nothing that the panic has left broken is used again.
        let request = AssertUnwindSafe(async move { request(backend).await }).catch_unwind();
        let answer = self.time.timeout(left, request).await;
        under_way.is_over = true;
        match answer {
            Some(Ok(answer)) => {
                match &answer {
                    Err(error) if error.kind().breaks_connection() => self.reset(generation),
                    Err(error) if is_of_a_broken_socket(error) => {}
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
                    self.silent(generation, sent);
                }
                Err(BackendError::timeout())
            }
        }
    }

    /// A connection for one request, until `deadline`.
    async fn any(&self, deadline: Instant) -> Result<Open, BackendError> {
        let sound = || self.sound(self.timeout * PATIENCE);
        if let Some(doubt) = self.opened().and_then(|open| open.doubt) {
            let ended = if doubt.answers {
                // It only sees to it that another one is being opened.
                sound().now_or_never()
            } else {
                self.time.timeout(self.timeout / CHANCE, sound()).await
            };
            match (ended, self.opened()) {
                (Some(Ok(open)), _) | (_, Some(open)) => return Ok(open),
                (Some(Err(failure)), None) => return Err(failure),
                // It was closed meanwhile.
                (None, None) => {}
            }
        }
        let left = deadline.since(self.time.now());
        let opened = self.time.timeout(left, sound()).await;
        opened.unwrap_or_else(|| Err(not_in_time()))
    }

    /// A connection that is not doubted; if there is none, one that is opened within `limit`.
    async fn sound(&self, limit: Duration) -> Result<Open, BackendError> {
        let undoubted = || self.opened().filter(|open| open.doubt.is_none());
        if let Some(open) = undoubted() {
            return Ok(open);
        }
        let mut openings = self.openings.lock().await;
        openings.forget_ended();
        if let Some(open) = undoubted() {
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
                    current.stay_with_what_answers();
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
        let mut current = self.current();
        let Some(open) = current.of(generation) else {
            return;
        };
        open.unanswered = Duration::ZERO;
        if let Some(doubt) = &mut open.doubt {
            doubt.answers |= sent >= doubt.since;
        }
        current.in_vain = 0;
    }

    /// Somebody who asked then waits no longer for an answer on this connection.
    fn left(&self, generation: u64, sent: Instant) {
        let now = self.time.now();
        // In a forked child a thread may hold it that does not exist there.
        let Ok(mut current) = self.current.try_lock() else {
            return;
        };
        let limit = self.timeout * 2_u32.pow(current.in_vain.min(MOST_DOUBLINGS));
        let Some(open) = current.of(generation) else {
            return;
        };
        open.unanswered += now.since(sent.max(open.counted));
        open.counted = now;
        if open.unanswered >= limit && open.doubt.is_none() {
            open.unanswered = Duration::ZERO;
            open.doubt = Some(Doubt {
                since: now,
                answers: false,
            });
            current.in_vain += 1;
        }
    }

    /// A request that was sent then has run out of time on this connection.
    fn silent(&self, generation: u64, sent: Instant) {
        let mut current = self.current();
        let Some(open) = current.of(generation) else {
            return;
        };
        match open.doubt {
            None if self.side == Side::Caller => {
                let since = self.time.now();
                let answers = false;
                open.doubt = Some(Doubt { since, answers });
            }
            // As old as the one before it, or one among others that were answered: nothing new.
            Some(doubt) if doubt.answers || sent < doubt.since => {}
            _ => {
                drop(current);
                self.reset(generation);
            }
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
        self.sound(limit).await.map(|open| open.backend)
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
        if self.open.as_ref().is_some_and(|open| open.doubt.is_none()) {
            return Some(backend);
        }
        self.generation += 1;
        let open = Open {
            backend,
            generation: self.generation,
            unanswered: Duration::ZERO,
            counted: Instant::ZERO,
            doubt: None,
        };
        self.open.replace(open).map(|old| old.backend)
    }

    /// No other connection can be had: one that answers is better than nothing.
    fn stay_with_what_answers(&mut self) {
        if let Some(open) = &mut self.open {
            open.doubt = open.doubt.filter(|doubt| !doubt.answers);
        }
    }
}

fn lock(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether one of the several sockets of a connection broke under a request: that is no answer.
fn is_of_a_broken_socket(error: &BackendError) -> bool {
    error.kind() == ErrorKind::Busy && error.effect() == Effect::Unknown
}

fn not_in_time() -> BackendError {
    BackendError::new(
        ErrorKind::Timeout,
        Effect::NotApplied,
        "the store could not be connected in time",
    )
}
