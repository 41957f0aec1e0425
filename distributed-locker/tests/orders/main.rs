//! Every order in which a caller, a dropped guard and the Reporter may meet over the registry (loom): the
//! very files that are shipped, over locks and atomics that are watched.
//!
//! It is no test of libtest, because those files' own tests are for the whole locker.

#![allow(clippy::expect_used, reason = "a test")]

#[path = "../../src/incarnation.rs"]
#[allow(dead_code)]
mod incarnation;
#[path = "../../src/registry/mod.rs"]
#[allow(dead_code, unused_imports)]
mod registry;

mod shared;

/// What those files take from the locker's own `sync`.
mod sync {
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic};
    pub(crate) use std::sync::PoisonError;
}

pub(crate) use shared::Event;

use incarnation::Incarnation;
use locker_core::deadline::Deadline;
use locker_core::machine::Tenure;
use locker_core::{Host, Instant, Key, OwnerHash, ProcessHash, StoreTime, Token};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use registry::{Attempt, Departure};
use shared::Shared;
use std::time::Duration;

/// An attempt of this locker begins.
fn begin(shared: &Arc<Shared>) -> (Arc<Incarnation>, OwnerHash, Attempt) {
    let key = Key::new("k").expect("a key");
    let process = ProcessHash::new(&Host::new("h").expect("a host"), 1, 1);
    let deadline = Deadline::new(Instant::FAR_FUTURE);
    let incarnation = Arc::new(Incarnation::new(process.clone(), Arc::new(deadline)));
    let owner = OwnerHash::new(&key, &process, 1, None);
    let attempt = Attempt::begin(shared, &incarnation, owner.clone());
    (incarnation, owner, attempt)
}

/// The attempt is granted, and its lock given back: the departure that comes of it.
fn held_and_given_back(shared: &Arc<Shared>, owner: OwnerHash, attempt: Attempt) -> Departure {
    let process = std::sync::Arc::new(Deadline::new(Instant::FAR_FUTURE));
    let end = Instant::FAR_FUTURE;
    let tenure = Tenure::new(owner, Instant::ZERO, end, process, None, Duration::ZERO);
    let entry = attempt.into_entry(Token::new(1), Arc::new(tenure), None, None);
    let (departure, lost) = entry.depart(shared).expect("the first to give it back");
    assert_eq!(lost, None);
    assert!(entry.depart(shared).is_none(), "nobody gives it back twice");
    departure
}

/// S7: whatever its hands, an owner hash is in the registry until nothing of it is left at the store.
/// The Reporter looks at any moment, and would end if it found nothing.
fn an_owner_hash_is_always_in_one_hand() {
    let shared = Arc::new(Shared::default());
    let (_incarnation, owner, attempt) = begin(&shared);
    let finished = Arc::new(AtomicBool::new(false));
    let caller = thread::spawn({
        let (shared, finished) = (Arc::clone(&shared), Arc::clone(&finished));
        move || {
            let departure = held_and_given_back(&shared, owner, attempt);
            finished.store(true, Ordering::Release);
            departure.finish();
        }
    });
    if shared.registry.is_empty() {
        assert!(
            finished.load(Ordering::Acquire),
            "nobody knows of the lock, and it is not given back"
        );
    }
    caller.join().expect("it ends");
    assert!(shared.registry.is_empty());
}

/// S7, L8: what is dropped while the Reporter ends is seen off by it, or forgotten; it is never kept.
fn what_departs_while_the_reporter_ends_is_not_kept() {
    let shared = Arc::new(Shared::default());
    let (incarnation, _owner, mut attempt) = begin(&shared);
    // It was sent, so its drop has something to settle.
    attempt.sending(StoreTime::from_micros(1));
    let caller = thread::spawn(move || drop(attempt));
    for departure in shared.registry.take_departures() {
        departure.finish();
    }
    shared.registry.close();
    caller.join().expect("it ends");
    assert!(shared.registry.is_empty(), "something is kept");
    assert!(shared.registry.take_departures().is_empty());
    assert!(incarnation.is_vacant(), "the incarnation is never retired");
}

/// S7: the Reporter, which sees off what was begun, does not end under an attempt that goes on. The
/// attempt is entered before `draining` is read (`acquire.rs`); the Reporter reads it before it looks into
/// the registry (`reporter/reports.rs`).
fn the_reporter_does_not_end_under_an_attempt() {
    let shared = Arc::new(Shared::default());
    let draining = Arc::new(AtomicBool::new(false));
    let drainer = thread::spawn({
        let draining = Arc::clone(&draining);
        move || draining.store(true, Ordering::Release)
    });
    let caller = thread::spawn({
        let (shared, draining) = (Arc::clone(&shared), Arc::clone(&draining));
        move || {
            let (_incarnation, _owner, attempt) = begin(&shared);
            (!draining.load(Ordering::Acquire)).then_some(attempt)
        }
    });
    let ended = draining.load(Ordering::Acquire) && shared.registry.is_empty();
    drainer.join().expect("it ends");
    let goes_on = caller.join().expect("it ends");
    // Before it is counted out of the registry, by its drop.
    assert!(
        !(ended && goes_on.is_some()),
        "the Reporter has ended, and the attempt goes on"
    );
}

fn main() {
    loom::model(an_owner_hash_is_always_in_one_hand);
    loom::model(what_departs_while_the_reporter_ends_is_not_kept);
    loom::model(the_reporter_does_not_end_under_an_attempt);
}
