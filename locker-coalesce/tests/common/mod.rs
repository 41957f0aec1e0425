//! A carrier that does what the test says, when the test says it.

#![allow(dead_code, reason = "each test file uses its part")]

use locker_coalesce::{Carrier, Gate, Limits};
use locker_core::{BackendError, Effect, ErrorKind, Key};
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long an operation waits for a lone one of its key that nobody polls.
pub(crate) const PATIENCE: Duration = Duration::from_millis(250);

/// So many operations are not shared out among several flights, and fewer have one flight for all.
pub(crate) const TOGETHER: usize = 8;

/// An operation is a number and a key; its answer is its number.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) id: usize,
    pub(crate) key: Key,
}

pub(crate) fn op(id: usize, key: &str) -> Op {
    let key = Key::new(key).unwrap();
    Op { id, key }
}

/// What the store says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every operation has its answer.
    Fine,
    /// The first operation is corrupt, the others have their answers.
    FirstIsBad,
    /// An error for the whole request.
    Fails(ErrorKind, Effect),
    /// The socket of the request breaks, and others of its connection do not.
    Breaks,
    /// The client panics.
    Panics,
    /// One answer is missing.
    Miscounts,
}

/// A request that reached the store. Dropped without a verdict, it is in flight for ever.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) ops: Vec<Op>,
    /// Whether it went out as one of many.
    pub(crate) together: bool,
    verdict: oneshot::Sender<Verdict>,
}

impl Request {
    pub(crate) fn ids(&self) -> Vec<usize> {
        self.ops.iter().map(|op| op.id).collect()
    }

    /// Whether the gate still waits for it.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.verdict.is_closed()
    }

    pub(crate) fn land(self, verdict: Verdict) {
        let _ = self.verdict.send(verdict);
    }
}

#[derive(Debug)]
pub(crate) struct Scripted {
    requests: mpsc::UnboundedSender<Request>,
}

impl Scripted {
    async fn verdict(&self, ops: &[Op], together: bool) -> Verdict {
        let (verdict, said) = oneshot::channel();
        let ops = ops.to_vec();
        let request = Request {
            ops,
            together,
            verdict,
        };
        drop(self.requests.send(request));
        match said.await {
            // A panic that prints nothing.
            Ok(Verdict::Panics) => std::panic::resume_unwind(Box::new("broken on purpose")),
            Ok(verdict) => verdict,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Carrier for Scripted {
    type Op = Op;
    type Answer = usize;

    fn key(op: &Op) -> impl std::hash::Hash {
        &op.key
    }

    async fn carry_one(&self, op: &Op) -> Result<usize, BackendError> {
        match self.verdict(std::slice::from_ref(op), false).await {
            Verdict::Fails(kind, effect) => Err(BackendError::new(kind, effect, "refused")),
            Verdict::Breaks => Err(broken()),
            Verdict::FirstIsBad => Err(bad()),
            _ => Ok(op.id),
        }
    }

    async fn carry(&self, ops: &[Op]) -> Result<Vec<Result<usize, BackendError>>, BackendError> {
        assert!(ops.len() > 1, "a batch of {}", ops.len());
        let mut answers: Vec<_> = ops.iter().map(|op| Ok(op.id)).collect();
        match self.verdict(ops, true).await {
            Verdict::Fails(kind, effect) => {
                return Err(BackendError::new(kind, effect, "refused"));
            }
            Verdict::Breaks => return Err(broken()),
            Verdict::FirstIsBad => answers[0] = Err(bad()),
            Verdict::Miscounts => drop(answers.pop()),
            _ => {}
        }
        Ok(answers)
    }

    fn is_overload(error: &BackendError) -> bool {
        error.kind() == ErrorKind::Busy
    }
}

fn broken() -> BackendError {
    BackendError::new(ErrorKind::Busy, Effect::Unknown, "broken")
        .with_source(std::fmt::Error)
        .unanswered()
}

fn bad() -> BackendError {
    BackendError::new(ErrorKind::Corrupt, Effect::NotApplied, "unreadable")
}

/// A gate to a store whose requests come out of the receiver. One flight is light.
pub(crate) fn gate(
    batch: usize,
    flights: usize,
) -> (Arc<Gate<Scripted>>, mpsc::UnboundedReceiver<Request>) {
    gate_of(batch, flights, 1, batch.min(TOGETHER))
}

/// A gate with all of its limits.
pub(crate) fn gate_of(
    batch: usize,
    flights: usize,
    light_flights: usize,
    together: usize,
) -> (Arc<Gate<Scripted>>, mpsc::UnboundedReceiver<Request>) {
    let (requests, received) = mpsc::unbounded_channel();
    let limits = Limits {
        batch: NonZeroUsize::new(batch).unwrap(),
        flights: NonZeroUsize::new(flights).unwrap(),
        light_flights: NonZeroUsize::new(light_flights).unwrap(),
        together: NonZeroUsize::new(together).unwrap(),
        patience: PATIENCE,
    };
    let gate = Gate::new(Scripted { requests }, limits);
    (Arc::new(gate), received)
}

pub(crate) type Asking = Pin<Box<dyn Future<Output = Result<usize, BackendError>> + Send>>;

/// The future of a caller, not yet polled.
pub(crate) fn ask(gate: &Arc<Gate<Scripted>>, op: Op) -> Asking {
    let gate = Arc::clone(gate);
    Box::pin(async move { gate.ask(op).await })
}

/// Callers who ask about a lock each, not yet polled.
pub(crate) fn ask_each(
    gate: &Arc<Gate<Scripted>>,
    ids: impl IntoIterator<Item = usize>,
) -> Vec<Asking> {
    let ops = ids.into_iter().map(|id| op(id, &id.to_string()));
    ops.map(|op| ask(gate, op)).collect()
}

/// The same, who all have begun before any task had a turn.
pub(crate) async fn ask_at_once(
    gate: &Arc<Gate<Scripted>>,
    ids: impl IntoIterator<Item = usize>,
) -> Vec<Asking> {
    let mut asking = ask_each(gate, ids);
    asking.iter_mut().for_each(begin);
    turns().await;
    asking
}

/// Polls the future of a caller once, without any other task having a turn.
pub(crate) fn begin(asking: &mut Asking) {
    let mut nobody = Context::from_waker(Waker::noop());
    assert!(asking.as_mut().poll(&mut nobody).is_pending());
}

/// Lets the tasks of the gate do what they can.
pub(crate) async fn turns() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn kind_and_effect(answer: Result<usize, BackendError>) -> (ErrorKind, Effect) {
    let error = answer.unwrap_err();
    (error.kind(), error.effect())
}
