//! The connections of one side, and the queue before them.
//!
//! A lane is a task that owns a connection and sends one request at a time. Requests wait in one
//! queue for all lanes. The first lane is there from the start; another is opened when a request
//! finds all of them busy, up to a limit. A lone request never waits.
//!
//! *Why not send the request in the caller's future?* Because it may be dropped at any moment, and
//! because a wake-up that belongs to a release must follow even then.
//!
//! *What if the caller goes away?* Before its request was sent it is withdrawn, and never sent
//! (attack 2). Afterwards its answer is read and dropped.
//!
//! *What if a lane goes away?* Its connection broke, or its runtime was shut down. The request that
//! was under way has an unknown effect; what still waits goes to another lane, or was not applied.

use crate::arguments::Value;
use crate::error;
use crate::session::{Session, Source};
use crate::statement::{Statement, Statements};
use locker_core::{BackendError, Effect, ErrorKind};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

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
    /// Lanes that wait for a job; the last that became idle is the first to be woken, so that few
    /// connections do the work of few callers.
    idle: Vec<Arc<Notify>>,
    lanes: usize,
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

/// Which function is called.
pub(crate) type Of = for<'s> fn(&'s Statements) -> &'s Statement;

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
        shared.queue().lanes = 1;
        shared.spawn(Some(first));
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
        self.shared.submit(job);
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Self>, job: Job) {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        if let Some(idle) = queue.idle.pop() {
            idle.notify_one();
        } else if queue.lanes < self.limit {
            queue.lanes += 1;
            drop(queue);
            self.spawn(None);
        }
    }

    fn spawn(self: &Arc<Self>, session: Option<Session>) {
        let lane = Lane {
            shared: Arc::clone(self),
            kick: Arc::new(Notify::new()),
            failure: None,
        };
        self.runtime.spawn(lane.run(session));
    }
}

/// One task with one connection.
struct Lane {
    shared: Arc<Shared>,
    kick: Arc<Notify>,
    /// Why there is no connection.
    failure: Option<BackendError>,
}

impl Lane {
    async fn run(mut self, session: Option<Session>) {
        let mut closed = self.shared.closed.clone();
        tokio::select! {
            biased;
            // The sender is gone: what was under way is given up with its connection.
            _ = closed.changed() => {}
            () = self.serve(session) => {}
        }
    }

    async fn serve(&mut self, mut session: Option<Session>) {
        loop {
            let mut open = match self.connection(session.take()).await {
                Ok(open) => open,
                Err(failure) => {
                    self.failure = Some(failure);
                    return;
                }
            };
            while let Some(job) = self.next() {
                if !self.work(&mut open, job).await {
                    open.abandon();
                    return;
                }
            }
            // A pool may need its connection elsewhere.
            session = match (open, &self.shared.source.pool) {
                (open, Some(_)) => {
                    open.close().await;
                    None
                }
                (open, None) => Some(open),
            };
            self.kick.notified().await;
        }
    }

    async fn connection(&self, session: Option<Session>) -> Result<Session, BackendError> {
        match (session, &self.shared.source.pool) {
            (Some(session), _) => Ok(session),
            (None, Some(pool)) => self.shared.source.lend(pool).await,
            (None, None) => self.shared.source.open().await,
        }
    }

    /// The next request whose caller still waits. If there is none, this lane is idle from now on.
    fn next(&self) -> Option<Job> {
        let mut left = Vec::new();
        let mut queue = self.shared.queue();
        let next = loop {
            match queue.jobs.pop_front() {
                Some(job) if job.ticket.is_gone() => left.push(job),
                Some(job) => break Some(job),
                None => {
                    queue.idle.push(Arc::clone(&self.kick));
                    break None;
                }
            }
        };
        drop(queue);
        drop(left);
        next
    }

    /// Does one request; `false` when the connection is not to be used again.
    async fn work(&self, session: &mut Session, mut job: Job) -> bool {
        job.ticket.sent = true;
        let answer = session
            .ask((job.of)(&self.shared.source.statements), job.arguments)
            .await;
        let mut sound = answer
            .as_ref()
            .err()
            .is_none_or(|error| !error.kind().breaks_connection());
        if let Ok(rows) = &answer {
            // Before the answer: the process may end right after it.
            sound = self.follow(session, rows, job.then).await;
        }
        job.ticket.answer(answer);
        sound
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
        queue.idle.retain(|idle| !Arc::ptr_eq(idle, &self.kick));
        queue.lanes -= 1;
        let abandoned = if queue.lanes == 0 {
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
