//! What the interleavings of all machines need: names, moments and answers.
#![allow(dead_code, reason = "every test file uses its part")]

use locker_core::backend::{BackendError, Held, Liveness, Observed, Reply};
use locker_core::machine::Step;
use locker_core::{
    Effect, ErrorKind, Host, Instant, Key, LockData, OwnerHash, ProcessData, ProcessHash,
    StoreTime, Timestamp, Timing, Token,
};
use std::fmt::Debug;
use std::time::Duration;

/// Seconds since a boot long ago.
pub(crate) fn at(seconds: f64) -> Instant {
    Instant::ZERO + Duration::from_secs(1000) + Duration::from_secs_f64(seconds)
}

/// The store's clock when the owner's shows that; it is far from it.
pub(crate) fn store(seconds: f64) -> StoreTime {
    StoreTime::from_micros(77_000_000_000) + Duration::from_secs_f64(seconds)
}

pub(crate) fn timing() -> Timing {
    Timing::default()
}

pub(crate) fn process(nonce: u128) -> ProcessHash {
    ProcessHash::new(&Host::new("web-1").expect("a host"), 4711, nonce)
}

pub(crate) fn owner(nonce: u128, seq: u64) -> OwnerHash {
    OwnerHash::new(&Key::new("k").expect("a key"), &process(nonce), seq, None)
}

pub(crate) fn held(by: &OwnerHash, holder: Option<Liveness>) -> Held {
    Held {
        data: LockData::new(by.clone(), Token::new(7), Timestamp::from_micros(1)),
        observed: Observed::new(by.as_str()),
        holder,
        free_in: Duration::from_secs(8),
        marked: false,
    }
}

pub(crate) fn alive(nonce: u128) -> Liveness {
    Liveness::Alive(ProcessData {
        process: process(nonce),
        alive_at: Timestamp::from_micros(1),
    })
}

#[expect(clippy::unnecessary_wraps, reason = "an answer, as a machine takes it")]
pub(crate) fn told<T>(seconds: f64, value: T) -> Result<Reply<T>, BackendError> {
    Ok(Reply::at(store(seconds), value))
}

pub(crate) fn unknown<T>() -> Result<T, BackendError> {
    Err(BackendError::timeout())
}

pub(crate) fn refused<T>(kind: ErrorKind) -> Result<T, BackendError> {
    Err(BackendError::new(kind, Effect::NotApplied, "refused"))
}

/// The machine and what it asks.
#[track_caller]
pub(crate) fn call<M: Debug, R: Debug, D: Debug>(step: Step<M, R, D>) -> (M, R) {
    match step {
        Step::Call(machine, request) => (machine, request),
        other => panic!("a request was due, but: {other:?}"),
    }
}

/// The machine and until when it sleeps.
#[track_caller]
pub(crate) fn sleep<M: Debug, R: Debug, D: Debug>(step: Step<M, R, D>) -> (M, Instant) {
    match step {
        Step::Sleep(machine, until) => (machine, until),
        other => panic!("a pause was due, but: {other:?}"),
    }
}

/// How it ended.
#[track_caller]
pub(crate) fn done<M: Debug, R: Debug, D: Debug>(step: Step<M, R, D>) -> D {
    match step {
        Step::Done(end) => end,
        other => panic!("the end was due, but: {other:?}"),
    }
}
