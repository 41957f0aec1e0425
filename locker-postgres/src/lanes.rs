//! The connections of one side, and the queue before them.
//!
//! A lane is a connection that carries one request at a time. Requests wait in one queue for all
//! lanes. The first lane is there from the start; another is opened when a request finds all of them
//! busy, up to a limit. A lone request never waits.
//!
//! *Who sends a request?* Whoever asks, while it is being polled: if it finds an idle lane, it has the
//! lane for as long as the request takes. Every other way leads through another task, which costs two
//! wake-ups, often of another thread, as much as a third of a request.
//!
//! *What if the caller goes away?* Before its request was sent it is withdrawn, and never sent
//! (attack 2). Afterwards a task takes over what is left of it ([`Drive`]): its answer is read, a
//! wake-up that belongs to a release follows, and then the lane is free for others.
//!
//! *What if the caller stays and does not go on?* It may hold its future in a `select!` and await
//! something else. So as soon as anybody has to wait for a lane, all requests that are in their
//! callers' hands are taken over in the same way: a caller that does not go on keeps no connection
//! from others. A wake-up that belongs to its release waits with it; whom it is for polls.
//!
//! *What if no answer comes?* The other end may be gone without a word. A caller bounds its wait by
//! itself; when it has left, the lane waits [`LATE`] longer, and closes.
//!
//! *What if a lane goes away?* Its connection broke, or its runtime was shut down. The request that
//! was under way has an unknown effect; what still waits goes to another lane, or was not applied.

use crate::arguments::Value;
use crate::drive::Drive;
use crate::error;
use crate::session::{Session, Source};
use crate::statement::Of;
use locker_core::{BackendError, Effect, ErrorKind};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

/// How long an answer is waited for that its caller waits for no more.
const LATE: Duration = Duration::from_secs(5);
/// How long the opening of another connection may take.
const OPENING: Duration = Duration::from_secs(30);

/// The way to the connections of one side. When it is dropped they are closed.
#[derive(Debug)]
pub(crate) struct Lanes {
    shared: Arc<Shared>,
    /// Dropped with the value: that is what ends the lanes.
    _open: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    limit: usize,
    /// On which hints are sent.
    channel: String,
    runtime: Handle,
    closed: watch::Receiver<()>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Lanes that wait for a job; the last that became idle is the first to be used, so that few
    /// connections do the work of few callers.
    idle: Vec<Lane>,
    /// What is in the hands of callers.
    driven: Vec<Arc<Drive>>,
    lanes: usize,
    closed: bool,
}

/// What has to follow a request once it is known to have happened, whether or not its caller still
/// waits.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    Nothing,
    /// The locks that were freed and are wanted are told about.
    WakeFreed,
    /// So are those of a process that ended.
    WakeHeldBy(String),
}

#[derive(Debug)]
struct Job {
    of: Of,
    arguments: Vec<Value>,
    then: Then,
    ticket: Ticket,
}

impl Lanes {
    /// Opens the first connection, and examines it. Also says whether a pooler is between.
    pub(crate) async fn open(
        source: Source,
        limit: usize,
        channel: String,
    ) -> Result<(Self, bool), BackendError> {
        let first = source.open().await?;
        let pooled = first.is_pooled();
        let (open, closed) = watch::channel(());
        let shared = Arc::new(Shared {
            source,
            limit,
            channel,
            runtime: Handle::current(),
            closed,
            queue: Mutex::default(),
        });
        // A pool may need its connection elsewhere until there is a request.
        let first = if shared.source.pool.is_some() {
            first.close().await;
            None
        } else {
            Some(first)
        };
        let mut queue = shared.queue();
        queue.lanes = 1;
        queue.idle.push(Lane::new(&shared, first));
        drop(queue);
        let lanes = Self {
            shared,
            _open: open,
        };
        Ok((lanes, pooled))
    }

    /// How many there are at most.
    pub(crate) fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the request was sent, it is never sent. Dropped later, it is answered to
    /// nobody.
    pub(crate) async fn ask(
        &self,
        of: Of,
        arguments: Vec<Value>,
        then: Then,
    ) -> Result<Vec<PgRow>, BackendError> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            of,
            arguments,
            then,
            ticket: Ticket {
                reply: Some(reply),
                sent: false,
            },
        };
        let answered = match self.shared.submit(job) {
            None => answer.await,
            Some(drive) => {
                let driving = Driving {
                    shared: &self.shared,
                    drive,
                };
                poll_fn(|context| driving.drive.go_on(context)).await;
                answer.await
            }
        };
        answered.unwrap_or_else(|_| Err(ended()))
    }
}

/// The idle lanes go at once, the others as soon as their tasks are polled.
impl Drop for Lanes {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        let idle = std::mem::take(&mut queue.idle);
        drop(queue);
        drop(idle);
    }
}

/// A request in the hands of its caller. Its drop leaves what is left of it to a task.
struct Driving<'l> {
    shared: &'l Arc<Shared>,
    drive: Arc<Drive>,
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue
            .driven
            .retain(|drive| !Arc::ptr_eq(drive, &self.drive));
        drop(queue);
        self.shared.take_over(&self.drive);
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a lane for a request. If there is an idle one, its caller has to drive it.
    fn submit(self: &Arc<Self>, job: Job) -> Option<Arc<Drive>> {
        let mut queue = self.queue();
        match queue.idle.pop() {
            Some(lane) if lane.session.is_some() => {
                let drive = Arc::new(Drive::new(lane.carry(job)));
                queue.driven.push(Arc::clone(&drive));
                return Some(drive);
            }
            // A connection is opened, or lent by a pool. Whoever is free earlier takes the job.
            Some(lane) => {
                queue.jobs.push_back(job);
                drop(queue);
                self.spawn(lane.serve());
            }
            None => {
                queue.jobs.push_back(job);
                let driven = std::mem::take(&mut queue.driven);
                let grows = queue.lanes < self.limit;
                queue.lanes += usize::from(grows);
                drop(queue);
                if grows {
                    self.spawn(Lane::new(self, None).serve());
                }
                // Also where another lane is opened: that may fail, or take long.
                for drive in driven {
                    self.take_over(&drive);
                }
            }
        }
        None
    }

    /// What is left of a request goes on without its caller.
    fn take_over(self: &Arc<Self>, drive: &Drive) {
        if let Some(rest) = drive.take() {
            self.spawn(rest);
        }
    }

    /// Runs it as a task, until the lanes are dropped.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let mut closed = self.closed.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                biased;
                // The sender is gone: what was under way is given up with its connection.
                _ = closed.changed() => {}
                () = task => {}
            }
        });
    }
}

/// A connection, or the place of one that is to be opened.
struct Lane {
    shared: Arc<Shared>,
    session: Option<Session>,
    /// Why there is no connection.
    failure: Option<BackendError>,
}

/// Without what it shares, which contains it.
impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Lane {
    fn new(shared: &Arc<Shared>, session: Option<Session>) -> Self {
        Self {
            shared: Arc::clone(shared),
            session,
            failure: None,
        }
    }

    /// Opens the connection, and does what waits.
    async fn serve(mut self) {
        if self.session.is_none() {
            let source = &self.shared.source;
            let opening = async {
                match &source.pool {
                    Some(pool) => source.lend(pool).await,
                    None => source.open().await,
                }
            };
            let too_late = "no connection was opened within 30 s";
            let opened = timeout(OPENING, opening).await;
            match opened.unwrap_or_else(|_| Err(error::unavailable(too_late))) {
                Ok(session) => self.session = Some(session),
                Err(failure) => {
                    self.failure = Some(failure);
                    return;
                }
            }
        }
        if let Some((lane, job)) = self.next() {
            lane.run(job).await;
        }
    }

    /// Does one request after the other, until nobody waits.
    async fn run(self, job: Job) {
        let mut next = Some((self, job));
        while let Some((lane, job)) = next {
            next = lane.work(job).await.and_then(Self::next);
        }
    }

    /// Does one request. If others wait, a task goes on with them.
    async fn carry(self, job: Job) {
        if let Some((lane, job)) = self.work(job).await.and_then(Self::next) {
            let shared = Arc::clone(&lane.shared);
            shared.spawn(lane.run(job));
        }
    }

    /// The next request whose caller still waits. If there is none, this lane is idle from now on.
    fn next(mut self) -> Option<(Self, Job)> {
        let shared = Arc::clone(&self.shared);
        // Dropped after the lock.
        let (mut left, mut given_back) = (Vec::new(), None);
        let mut queue = shared.queue();
        let next = loop {
            match queue.jobs.pop_front() {
                Some(job) if job.ticket.is_gone() => left.push(job),
                next => break next,
            }
        };
        let (next, closed) = match next {
            Some(job) => (Some((self, job)), None),
            None if queue.closed => (None, Some(self)),
            None => {
                // A pool may need its connection elsewhere.
                if shared.source.pool.is_some() {
                    given_back = self.session.take();
                }
                queue.idle.push(self);
                (None, None)
            }
        };
        drop(queue);
        drop((left, given_back, closed));
        next
    }

    /// Does one request; `None` when the connection is not to be used again.
    async fn work(mut self, mut job: Job) -> Option<Self> {
        // It may have been taken over after its caller left, or have waited for its task to run.
        if job.ticket.is_gone() {
            return Some(self);
        }
        // Without one the request was not sent.
        let mut session = self.session.take()?;
        job.ticket.sent = true;
        let request = session.ask((job.of)(&self.shared.source.statements), job.arguments);
        let answer = tokio::select! {
            biased;
            answer = request => answer,
            () = job.ticket.has_long_been_gone() => Err(BackendError::timeout()),
        };
        let mut sound = answer
            .as_ref()
            .err()
            .is_none_or(|error| !error.kind().breaks_connection());
        if let Ok(rows) = &answer {
            // Before the answer: the process may end right after it.
            let followed = self.follow(&mut session, rows, job.then);
            sound = timeout(LATE, followed).await.unwrap_or(false);
        }
        job.ticket.answer(answer);
        if sound {
            self.session = Some(session);
            Some(self)
        } else {
            session.abandon();
            None
        }
    }

    /// Does what belongs to a request that has happened. It may fail: hints are hints.
    async fn follow(&self, session: &mut Session, rows: &[PgRow], then: Then) -> bool {
        let statements = &self.shared.source.statements;
        let keys = match then {
            Then::Nothing => return true,
            Then::WakeFreed => freed(rows),
            Then::WakeHeldBy(process) => {
                let arguments = vec![process.as_str().into()];
                match session.ask(&statements.held_by, arguments).await {
                    Ok(rows) => rows.iter().filter_map(|row| row.try_get(0).ok()).collect(),
                    Err(error) => return unwoken(&error),
                }
            }
        };
        if keys.is_empty() {
            return true;
        }
        let arguments = vec![Value::Texts(keys), self.shared.channel.as_str().into()];
        match session.ask(&statements.wake, arguments).await {
            Ok(_) => true,
            Err(error) => unwoken(&error),
        }
    }
}

/// The keys that were freed and that somebody waits for.
fn freed(rows: &[PgRow]) -> Vec<String> {
    let wanted = rows
        .iter()
        .filter(|row| row.try_get::<&str, _>("verdict").ok() == Some("wanted"));
    wanted
        .filter_map(|row| row.try_get("key").ok().flatten())
        .collect()
}

fn unwoken(error: &BackendError) -> bool {
    tracing::debug!(%error, "waiters were not woken; they poll");
    !error.kind().breaks_connection()
}

/// The end of a lane, whatever ends it. What nobody will do any more is answered.
impl Drop for Lane {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.lanes -= 1;
        // An idle lane takes up nothing by itself.
        let abandoned = if queue.lanes == queue.idle.len() {
            std::mem::take(&mut queue.jobs)
        } else {
            VecDeque::new()
        };
        drop(queue);
        for mut job in abandoned {
            let failure = self.failure.as_ref();
            job.ticket.answer(Err(failure.map_or_else(ended, again)));
        }
    }
}

/// The same failure for another request.
fn again(failure: &BackendError) -> BackendError {
    BackendError::new(failure.kind(), Effect::NotApplied, failure.to_string())
}

fn ended() -> BackendError {
    error::unavailable("the connection was closed before the request was sent")
}

/// The answer that a caller is owed. It is given in any case, also when the task is torn down.
#[derive(Debug)]
struct Ticket {
    reply: Option<oneshot::Sender<Result<Vec<PgRow>, BackendError>>>,
    sent: bool,
}

impl Ticket {
    fn answer(&mut self, answer: Result<Vec<PgRow>, BackendError>) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(answer));
        }
    }

    /// Resolves [`LATE`] after the caller has left.
    async fn has_long_been_gone(&mut self) {
        if let Some(reply) = &mut self.reply {
            reply.closed().await;
        }
        tokio::time::sleep(LATE).await;
    }

    fn is_gone(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let error = if self.sent {
            BackendError::new(
                ErrorKind::Unavailable,
                Effect::Unknown,
                "the connection was closed while the request was under way",
            )
        } else {
            ended()
        };
        self.answer(Err(error));
    }
}
