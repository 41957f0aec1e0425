//! Every order in which the threads of a process may meet over the deadline word, by the memory model of
//! the language (loom): the very file that is shipped, over atomics that are watched.
//!
//! `std` is this very crate here, so that file needs no word about it. It is no test of libtest, because
//! that file's own tests are for the real `std`.
#![no_std]

extern crate self as std;
extern crate std as real;

#[path = "../../src/deadline.rs"]
#[allow(dead_code, unused_imports, unreachable_pub)]
mod deadline;

/// What that file takes from `std`, and from its own crate.
pub(crate) mod sync {
    pub(crate) use loom::sync::{Arc, atomic};
}

pub(crate) mod time {
    pub(crate) use locker_core::Instant;
    pub(crate) use real::time::Duration;
}

use deadline::Deadline;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use time::Instant;

const END: u64 = 100;
const LATER: u64 = 200;

fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

/// The word, and whether somebody was told that it is over.
struct Shared {
    deadline: Deadline,
    told: AtomicBool,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            deadline: Deadline::new(at(END)),
            told: AtomicBool::new(false),
        })
    }

    /// S5: who asks after somebody was told "no" is told "no" as well, by whatever clock reading.
    fn ask(&self, now: u64) -> bool {
        let told = self.told.load(Ordering::Acquire);
        let valid = self.deadline.is_valid(at(now));
        assert!(
            !(told && valid),
            "S5: told that it is over, and valid again"
        );
        if !valid {
            self.told.store(true, Ordering::Release);
        }
        valid
    }

    /// The Reporter, with an acknowledgement that it began to handle in time.
    fn extend(&self) -> bool {
        let told = self.told.load(Ordering::Acquire);
        let extended = self.deadline.extend(at(END - 1), at(LATER));
        assert!(!(told && extended), "S5: extended after somebody was told");
        extended
    }
}

/// Attack 14: the Reporter looked in time and is stopped; a job looks too late.
fn a_reporter_that_was_stopped_revives_nothing() {
    let shared = Shared::new();
    let reporter = thread::spawn({
        let shared = Arc::clone(&shared);
        move || shared.extend()
    });
    let job = thread::spawn({
        let shared = Arc::clone(&shared);
        move || (shared.ask(END), shared.ask(END + 1))
    });
    // A clock that was read before its thread was stopped.
    let early = shared.ask(END - 2);
    let extended = reporter.join().expect("it ends");
    let (first, second) = job.join().expect("it ends");
    assert_eq!(
        [first, second],
        [extended; 2],
        "one of the two wins, for both"
    );
    assert_eq!(shared.ask(END + 2), second);
    assert!(early || !second);
}

/// What is condemned lasts until its end, and no longer, whoever comes first.
fn what_is_condemned_is_not_prolonged_afterwards() {
    let shared = Shared::new();
    let reporter = thread::spawn({
        let shared = Arc::clone(&shared);
        move || shared.extend()
    });
    let ends = shared.deadline.condemn(at(END));
    assert_eq!(ends, Some(at(END)), "nobody has lost it");
    assert!(!shared.deadline.extend(at(END - 1), at(LATER)));
    reporter.join().expect("it ends");
    assert!(shared.ask(END - 1) && !shared.ask(END) && !shared.ask(END - 1));
}

/// A loss is final, whatever is acknowledged at the same time.
fn what_is_lost_is_not_prolonged_afterwards() {
    let shared = Shared::new();
    let reporter = thread::spawn({
        let shared = Arc::clone(&shared);
        move || shared.extend()
    });
    shared.deadline.lose();
    shared.told.store(true, Ordering::Release);
    assert!(!shared.ask(END - 1));
    reporter.join().expect("it ends");
    assert!(!shared.ask(END - 1));
}

fn main() {
    loom::model(a_reporter_that_was_stopped_revives_nothing);
    loom::model(what_is_condemned_is_not_prolonged_afterwards);
    loom::model(what_is_lost_is_not_prolonged_afterwards);
}
