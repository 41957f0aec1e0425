//! One task owns one connection. Callers send it jobs and may go away at any moment.
//!
//! *Why not run the statements in the caller's future?* Because it may be dropped between two of
//! them, and a transaction would stay open and stop the whole store. The task is nobody's future: it
//! runs every job that it begins to its end.
//!
//! *Why a thread of its own?* A job of the user may block the runtime that it shares with others, and
//! would do so between two statements of a transaction (F06). No user code runs on this thread.
//!
//! *What if the caller goes away?* Before the job began (it is in the queue, or waits for the write
//! lock): it is withdrawn, and nothing is ever done (attack 2). Afterwards: it is done, and its
//! answer is dropped; whoever sent it treats it as unsettled.
//!
//! *What if the task goes away* (it has panicked)? Whoever waits is told: a job that had not begun
//! was not applied; of one that had, the effect is unknown.

use crate::error;
use crate::session::Session;
use locker_core::{BackendError, Effect, ErrorKind};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How many jobs may wait in the queue; further callers wait before it.
const QUEUE: usize = 256;

pub(crate) type Boxed<'s, T> = Pin<Box<dyn Future<Output = T> + Send + 's>>;
type Job = Box<dyn for<'s> FnOnce(&'s mut Session) -> Boxed<'s, ()> + Send>;

/// Whoever waits for the answer of a step.
pub(crate) trait Caller {
    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool;
    /// From here on the step may take effect.
    fn begins(&mut self);
}

/// The way to the task of one connection. When it is dropped, the task ends and closes it.
#[derive(Debug)]
pub(crate) struct Handle {
    jobs: mpsc::Sender<Job>,
}

/// Starts the task of a connection.
///
/// # Errors
///
/// The system has no thread or descriptors for it. The connection is closed.
pub(crate) fn spawn(session: Session) -> Result<Handle, BackendError> {
    let (jobs, queue) = mpsc::channel(QUEUE);
    // For wake-ups. Nothing here waits for time to pass.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(no_thread)?;
    std::thread::Builder::new()
        .name("locker-sqlite".to_owned())
        .spawn(move || runtime.block_on(run(session, queue)))
        .map_err(no_thread)?;
    Ok(Handle { jobs })
}

fn no_thread(cause: std::io::Error) -> BackendError {
    error::unavailable("the connection's own thread could not be started").with_source(cause)
}

async fn run(mut session: Session, mut queue: mpsc::Receiver<Job>) {
    let hub = Arc::clone(&session.hub);
    loop {
        tokio::select! {
            job = queue.recv() => match job {
                Some(job) => job(&mut session).await,
                None => break,
            },
            // What is to be deleted is deleted below.
            () = hub.withdrawals() => {}
        }
        session.resolve_doubt().await;
        // After the answer, so that nobody waits for it.
        if session.is_untidy() {
            session.tidy().await;
            session.resolve_doubt().await;
        }
    }
    session.unwatch_all().await;
    session.close().await;
}

impl Handle {
    /// Has a step done, and waits for its answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the step began, the step is never done. Dropped later, it is done to its end.
    pub(crate) async fn call<T, F>(&self, step: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(
                &'s mut Session,
                &'s mut (dyn Caller + Send),
            ) -> Boxed<'s, Result<T, BackendError>>
            + Send
            + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let mut ticket = Ticket {
            reply: Some(reply),
            begun: false,
        };
        let job: Job = Box::new(move |session| {
            Box::pin(async move {
                if ticket.is_gone() {
                    return;
                }
                let answer = step(session, &mut ticket).await;
                ticket.answer(answer);
            })
        });
        self.jobs.send(job).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> BackendError {
    error::unavailable("the task of the connection has ended")
}

/// The answer that a caller is owed. It is given in any case, also when the task is torn down.
struct Ticket<T> {
    reply: Option<oneshot::Sender<Result<T, BackendError>>>,
    begun: bool,
}

impl<T> Ticket<T> {
    fn answer(&mut self, answer: Result<T, BackendError>) {
        if let Some(reply) = self.reply.take() {
            // What nobody takes is dropped here, and withdraws itself if it is a stream of hints.
            drop(reply.send(answer));
        }
    }
}

impl<T> Caller for Ticket<T> {
    fn is_gone(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn begins(&mut self) {
        self.begun = true;
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        let error = if self.begun {
            BackendError::new(
                ErrorKind::Unavailable,
                Effect::Unknown,
                "the task of the connection ended while the step was being done",
            )
        } else {
            ended()
        };
        self.answer(Err(error));
    }
}
