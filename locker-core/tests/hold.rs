//! Interleavings of a held lock, played on its machine.

mod common;

use common::*;
use locker_core::backend::Standing;
use locker_core::deadline::Deadline;
use locker_core::machine::hold::{HoldStep, Request};
use locker_core::machine::{Hold, LossReason, Tenure};
use locker_core::{ErrorKind, Instant};
use std::sync::Arc;
use std::time::Duration;

const L: Duration = Duration::from_secs(300);

/// Granted by a claim that was sent at 0 s, in a process that lives long.
fn granted(beat_within: Option<Duration>) -> Arc<Tenure> {
    let process = Arc::new(Deadline::new(at(1e6)));
    let lock = timing().valid_until(at(0.0), L);
    let budget = timing().stop_budget;
    Arc::new(Tenure::new(
        owner(1, 1),
        at(0.0),
        lock,
        process,
        beat_within,
        budget,
    ))
}

fn begin(tenure: &Arc<Tenure>, now: Instant) -> HoldStep {
    Hold::begin(now, Arc::clone(tenure), timing(), at(0.0))
}

/// Wakes it at its own moments until it asks for an extension, answering every check.
fn until_extension(step: HoldStep) -> (Hold, Instant) {
    let (mut machine, mut until) = sleep(step);
    loop {
        match call(machine.on_wake(until)) {
            (machine, Request::Extend(_)) => return (machine, until),
            (next, Request::Check(_)) => {
                (machine, until) = sleep(next.on_standing(until, Ok(Standing::Mine)));
            }
        }
    }
}

/// A lock that was granted just before a point of the grid belongs to that point, also when the
/// driver looks at it later.
#[test]
fn a_lock_that_is_first_seen_after_its_point_is_asked_about_at_once() {
    let (_, request) = call(begin(&granted(None), at(5.1)));
    assert!(matches!(request, Request::Check(_)), "{request:?}");
}

/// L7: the locks of a process are due together, whenever each of them was granted.
#[test]
fn locks_that_were_granted_at_different_times_are_due_at_the_same_points() {
    for granted_at in [0.0, 1.3, 4.99] {
        let (_, until) = sleep(begin(&granted(None), at(granted_at)));
        assert_eq!(until, at(5.0));
        let (_, due) = until_extension(begin(&granted(None), at(granted_at)));
        assert_eq!(due, at(60.0));
    }
    // An answer that comes late does not move the grid.
    let (machine, due) = until_extension(begin(&granted(None), at(0.0)));
    let answered = due + Duration::from_millis(1400);
    let (_, until) = sleep(machine.on_standing(answered, Ok(Standing::Mine)));
    assert_eq!(until, at(65.0));
}

/// The extension counts from when it was sent, and a check extends nothing.
#[test]
fn only_an_extension_moves_the_deadline_and_from_its_own_send() {
    let tenure = granted(None);
    let until = tenure.valid_until();
    let (machine, _) = sleep(begin(&tenure, at(0.0)));
    let (machine, request) = call(machine.on_wake(at(5.0)));
    assert!(matches!(request, Request::Check(_)));
    let step = machine.on_standing(at(5.1), Ok(Standing::Mine));
    assert_eq!(tenure.valid_until(), until);
    let (machine, due) = until_extension(step);
    let (_, _) = sleep(machine.on_standing(due + Duration::from_secs(1), Ok(Standing::Mine)));
    assert_eq!(tenure.valid_until(), Some(timing().valid_until(due, L)));
}

/// S3 for the owner: no error is a loss, and none is an extension.
#[test]
fn an_error_says_nothing_about_the_lock() {
    let tenure = granted(None);
    let until = tenure.valid_until();
    let (machine, due) = until_extension(begin(&tenure, at(0.0)));
    // The check that was due as well comes first; then the extension again, and soon.
    let (machine, request) = call(machine.on_standing(due, refused(ErrorKind::Unavailable)));
    assert!(matches!(request, Request::Check(_)));
    let step = machine.on_standing(due, unknown());
    let (machine, again) = sleep(step);
    assert_eq!(again, due + timing().retry_after);
    let (_, request) = call(machine.on_wake(again));
    assert!(matches!(request, Request::Extend(_)));
    assert_eq!((tenure.loss(), tenure.valid_until()), (None, until));
}

/// What waits for an answer that never comes asks again when it is woken.
#[test]
fn a_machine_whose_request_was_dropped_asks_again() {
    let (machine, due) = until_extension(begin(&granted(None), at(0.0)));
    let (machine, _) = call(machine.on_standing(due, unknown()));
    let (_, request) = call(machine.on_wake(due + timing().retry_after));
    assert!(matches!(request, Request::Extend(_)));
}

#[test]
fn the_word_of_the_store_ends_the_tenure() {
    let other = owner(2, 1);
    let cases = [
        (Standing::Absent, LossReason::Vanished),
        (Standing::Held(other.clone()), LossReason::TakenOver(other)),
    ];
    for (standing, reason) in cases {
        let tenure = granted(None);
        let (machine, _) = sleep(begin(&tenure, at(0.0)));
        let (machine, _) = call(machine.on_wake(at(5.0)));
        let loss = done(machine.on_standing(at(5.1), Ok(standing)));
        assert_eq!(loss.reason, reason);
        assert!(!tenure.is_valid(at(5.1)) && tenure.valid_until().is_none());
    }
}

/// Attack 15: a mark leaves the owner one stop budget, and nothing extends it.
#[test]
fn a_marked_lock_lasts_one_stop_budget_and_is_not_extended() {
    let tenure = granted(None);
    let (machine, due) = until_extension(begin(&tenure, at(0.0)));
    let loss = done(machine.on_standing(due, Ok(Standing::Marked)));
    let hard = due + timing().stop_budget;
    assert_eq!(
        (loss.reason, loss.safe_until),
        (LossReason::ForceReleased, hard)
    );
    assert!(tenure.is_valid(due + Duration::from_millis(1499)));
    let late = tenure.learn(due, Standing::Mine, Some(due), &timing());
    assert!(late.is_err(), "an extension that crossed the mark");
    assert!(!tenure.is_valid(hard));
}

/// Attack 19: a beat counts for exactly one L, and is looked at then and not at the next point.
#[test]
fn a_job_that_does_not_beat_is_lost_at_its_last_beat_plus_one_l() {
    let tenure = granted(Some(L));
    assert!(tenure.beat(at(17.0)));
    let (mut step, mut now) = (begin(&tenure, at(17.0)), at(17.0));
    let mut extensions = 0;
    let (loss, seen) = loop {
        step = match step {
            HoldStep::Call(machine, request) => {
                extensions += u32::from(matches!(request, Request::Extend(_)));
                machine.on_standing(now, Ok(Standing::Mine))
            }
            HoldStep::Done(loss) => break (loss, now),
            HoldStep::Sleep(machine, until) => {
                now = until;
                machine.on_wake(now)
            }
        };
    };
    assert_eq!(seen, at(317.0));
    assert_eq!(loss.reason, LossReason::Expired);
    assert_eq!(extensions, 5, "as long as the last beat was young enough");
    assert!(!tenure.beat(at(316.9)), "lost is lost");
}

/// S12: the job is told one stop budget before the store may give the lock away.
#[test]
fn a_lock_that_is_not_extended_is_condemned_one_stop_budget_early() {
    let tenure = granted(None);
    let hard = tenure.valid_until().unwrap();
    let mut step = begin(&tenure, at(0.0));
    let (loss, seen) = loop {
        let (machine, until) = match step {
            HoldStep::Sleep(machine, until) => (machine, until),
            HoldStep::Call(machine, _) => {
                step = machine.on_standing(at(200.0), unknown());
                continue;
            }
            HoldStep::Done(_) => unreachable!("told at its own moment"),
        };
        step = match machine.on_wake(until) {
            HoldStep::Call(machine, _) => machine.on_standing(until, unknown()),
            HoldStep::Done(loss) => break (loss, until),
            sleeping @ HoldStep::Sleep(..) => sleeping,
        };
    };
    assert_eq!((loss.reason, loss.safe_until), (LossReason::Expired, hard));
    assert_eq!(seen, timing().soft(hard));
    assert!(tenure.is_valid(seen) && !tenure.is_valid(hard));
}
