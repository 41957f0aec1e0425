//! Real threads: callers who hurry, go away and come back, and a store that answers when it likes.

#![allow(clippy::unwrap_used, reason = "tests")]

use locker_coalesce::{Carrier, Gate, Limits};
use locker_core::{BackendError, Effect, ErrorKind, Key};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const KEYS: usize = 24;
const CALLERS: usize = 64;
const ROUNDS: usize = 400;

struct Op {
    key: Key,
    which: usize,
    id: usize,
    alive: Arc<AtomicUsize>,
}

/// To see that no operation stays behind in the queue.
impl Drop for Op {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Busy {
    keys: [AtomicBool; KEYS],
    requests: AtomicUsize,
    carried: AtomicUsize,
}

struct Store(Arc<Busy>);

/// A key that is under way. Dropped when its request ends or is given up.
struct UnderWay<'s>(&'s AtomicBool);

impl<'s> UnderWay<'s> {
    fn begin(busy: &'s Busy, op: &Op) -> Self {
        let key = &busy.keys[op.which];
        assert!(!key.swap(true, Ordering::SeqCst), "a key twice under way");
        busy.carried.fetch_add(1, Ordering::SeqCst);
        Self(key)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl Carrier for Store {
    type Op = Op;
    type Answer = usize;

    fn key(op: &Op) -> impl std::hash::Hash {
        &op.key
    }

    async fn carry_one(&self, op: &Op) -> Result<usize, BackendError> {
        let _under_way = UnderWay::begin(&self.0, op);
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Ok(op.id)
    }

    async fn carry(&self, ops: &[Op]) -> Result<Vec<Result<usize, BackendError>>, BackendError> {
        let _under_way: Vec<_> = ops.iter().map(|op| UnderWay::begin(&self.0, op)).collect();
        let number = self.0.requests.fetch_add(1, Ordering::SeqCst);
        if number.is_multiple_of(3) {
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
        if number.is_multiple_of(7) {
            let refused = "refused on purpose";
            return Err(BackendError::new(
                ErrorKind::Rejected,
                Effect::NotApplied,
                refused,
            ));
        }
        Ok(ops.iter().map(|op| Ok(op.id)).collect())
    }
}

async fn play(flights: usize) {
    let busy = Arc::new(Busy::default());
    let alive = Arc::new(AtomicUsize::new(0));
    let limits = Limits {
        batch: NonZeroUsize::new(8).unwrap(),
        flights: NonZeroUsize::new(flights).unwrap(),
        light_flights: NonZeroUsize::MIN,
        together: NonZeroUsize::new(2).unwrap(),
        // No caller is held up here, however busy the machine.
        patience: Duration::from_secs(60),
    };
    let gate = Arc::new(Gate::new(Store(Arc::clone(&busy)), limits));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let gate = Arc::clone(&gate);
            let alive = Arc::clone(&alive);
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let id = caller * ROUNDS + round;
                    let which = id * 7 % KEYS;
                    alive.fetch_add(1, Ordering::SeqCst);
                    let op = Op {
                        key: Key::new(which.to_string()).unwrap(),
                        which,
                        id,
                        alive: Arc::clone(&alive),
                    };
                    if round % 3 == caller % 3 {
                        // Goes away after a turn or two, wherever the operation is then.
                        tokio::select! {
                            biased;
                            answer = gate.ask(op) => assert_eq!(answer.unwrap(), id),
                            () = tokio::task::yield_now() => {}
                        }
                    } else {
                        assert_eq!(gate.ask(op).await.unwrap(), id);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        let end = tokio::time::timeout(Duration::from_secs(60), caller).await;
        end.expect("nobody waits for ever").unwrap();
    }
    // What left is withdrawn or carried to its end; nothing stays.
    let patience = tokio::time::Instant::now() + Duration::from_secs(10);
    while alive.load(Ordering::SeqCst) > 0 {
        assert!(
            tokio::time::Instant::now() < patience,
            "operations stay in the queue"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let requests = busy.requests.load(Ordering::SeqCst);
    let carried = busy.carried.load(Ordering::SeqCst);
    assert!(
        requests < carried,
        "nothing travelled together: {carried} operations in {requests} requests"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_doubled_or_forgotten_with_one_batch_in_flight() {
    play(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_doubled_or_forgotten_with_three_batches_in_flight() {
    play(3).await;
}
