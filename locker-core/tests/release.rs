//! Interleavings of a lock that is given back, played on its machine.

mod common;

use common::*;
use locker_core::backend::{Released, Settlement};
use locker_core::machine::release::{End, ReleaseStep, Request};
use locker_core::machine::{Release, Step};
use locker_core::{ErrorKind, Instant, StoreTime};
use std::time::Duration;

fn held_until(gone_by: Instant, unsettled: Option<StoreTime>) -> ReleaseStep {
    let (machine, request) = Release::begin(owner(1, 1), timing(), gone_by, unsettled);
    Step::Call(machine, request)
}

fn only_an_attempt(not_after: StoreTime) -> ReleaseStep {
    held_until(Instant::ZERO, Some(not_after))
}

#[test]
fn one_answer_ends_the_release_of_what_was_held() {
    let (machine, request) = call(held_until(at(300.0), None));
    assert_eq!(request, Request::Release(owner(1, 1)));
    let end = done(machine.on_released(at(0.1), told(0.1, Released::Done)));
    assert!(matches!(end, End::Confirmed(Ok(Released::Done))));
}

/// S7: whatever was not answered is asked again, until the record has run out by itself.
#[test]
fn a_release_is_repeated_until_the_record_has_run_out() {
    let (mut machine, _) = call(held_until(at(300.0), None));
    for second in 0..300 {
        let (next, until) = sleep(machine.on_released(at(f64::from(second)), unknown()));
        assert_eq!(until, at(f64::from(second)) + timing().retry_after);
        (machine, _) = call(next.on_wake(until));
    }
    let end = done(machine.on_released(at(300.0), unknown()));
    assert!(matches!(end, End::RanOut(_)));
}

/// Attack 1: an attempt that may land after its own compensation is settled until it cannot.
#[test]
fn what_may_still_land_is_settled_until_the_store_says_that_it_cannot() {
    let not_after = store(3.0);
    let (machine, request) = call(only_an_attempt(not_after));
    assert_eq!(request, Request::Settle(owner(1, 1), not_after));
    let open = Settlement::Open(Released::Absent);
    let (machine, until) = sleep(machine.on_settled(at(0.0), told(0.0, open.clone())));
    assert_eq!(until, at(1.0), "at once, after a second, at every recheck");
    let (machine, _) = call(machine.on_wake(until));
    let (machine, until) = sleep(machine.on_settled(at(1.0), told(1.0, open)));
    assert_eq!(until, at(1.0) + timing().recheck_every);
    let (machine, _) = call(machine.on_wake(until));
    // No error ends it, and no time: the record would belong to a living process.
    let (machine, until) = sleep(machine.on_settled(at(9e5), unknown()));
    assert_eq!(until, at(9e5) + timing().retry_after);
    let (machine, _) = call(machine.on_wake(until));
    let (machine, until) = sleep(machine.on_settled(at(9e5), refused(ErrorKind::Denied)));
    assert_eq!(
        until,
        at(9e5) + timing().recheck_every,
        "not as often where it is useless"
    );
    let (machine, request) = call(machine.on_wake(until));
    assert_eq!(request, Request::Settle(owner(1, 1), not_after));
    let last = Settlement::Final(Released::Done);
    let end = done(machine.on_settled(at(9e5), told(9e5, last)));
    assert!(
        matches!(end, End::Confirmed(Ok(Released::Absent))),
        "as it was found first"
    );
}

/// Attack 1: create#1 gets lost, create#2 is granted and released, create#1 lands.
#[test]
fn a_granted_lock_is_released_first_and_its_lost_attempt_settled_after_it() {
    let (machine, request) = call(held_until(at(300.0), Some(store(3.0))));
    assert_eq!(request, Request::Release(owner(1, 1)));
    let (machine, request) = call(machine.on_released(at(0.1), told(0.1, Released::Done)));
    assert_eq!(request, Request::Settle(owner(1, 1), store(3.0)));
    assert!(matches!(machine.word(), Some(Ok(Released::Done))));
    // What the settling finds is what landed late, and no answer to "was it still mine?".
    let open = Settlement::Open(Released::Done);
    let (machine, until) = sleep(machine.on_settled(at(0.2), told(0.2, open)));
    let (machine, _) = call(machine.on_wake(until));
    let last = Settlement::Final(Released::Absent);
    let end = done(machine.on_settled(at(5.0), told(5.0, last)));
    assert!(matches!(end, End::Confirmed(Ok(Released::Done))));
}

/// S6: what was found first counts, although later answers sound better.
#[test]
fn a_lock_that_was_found_gone_stays_found_gone() {
    let (machine, _) = call(held_until(at(300.0), Some(store(3.0))));
    let other = Released::Held(owner(2, 1));
    let (machine, _) = call(machine.on_released(at(0.1), told(0.1, other.clone())));
    let last = Settlement::Final(Released::Done);
    let end = done(machine.on_settled(at(4.0), told(4.0, last)));
    assert!(matches!(end, End::Confirmed(Ok(found)) if found == other));
}

#[test]
fn a_release_that_was_not_answered_is_repeated_before_anything_is_settled() {
    let (machine, _) = call(held_until(at(300.0), Some(store(3.0))));
    let (machine, until) = sleep(machine.on_released(at(1.5), unknown()));
    assert_eq!(until.since(at(1.5)), Duration::from_millis(250));
    let (machine, request) = call(machine.on_wake(until));
    assert_eq!(request, Request::Release(owner(1, 1)));
    assert!(machine.word().is_none());
}

/// S6: what a release may have done whose answer was lost says nothing about the lock, whoever sent
/// it, and whoever asks next; the owner is told which failure it was.
#[test]
fn a_release_of_unknown_effect_makes_no_loss() {
    for found in [Released::Absent, Released::Held(owner(2, 1))] {
        for unsettled in [None, Some(store(3.0))] {
            let (machine, _) = call(held_until(at(300.0), unsettled));
            // The caller's was not executed, and the Reporter's may have been.
            let refused = refused(ErrorKind::Unavailable);
            let (machine, until) = sleep(machine.on_released(at(0.1), refused));
            let (machine, _) = call(machine.on_wake(until));
            let (machine, until) = sleep(machine.on_released(at(1.5), unknown()));
            let (machine, _) = call(machine.on_wake(until));
            let word = match machine.on_released(at(2.0), told(2.0, found.clone())) {
                Step::Done(End::Confirmed(word)) => word,
                Step::Call(machine, Request::Settle(..)) => machine.word().unwrap().clone(),
                other => panic!("{other:?}"),
            };
            assert_eq!(word.unwrap_err().kind(), ErrorKind::Timeout);
        }
    }
}

#[test]
fn a_doubt_is_over_where_the_lock_was_still_there() {
    let (machine, _) = call(held_until(at(300.0), None));
    let (machine, until) = sleep(machine.on_released(at(1.5), unknown()));
    let (machine, _) = call(machine.on_wake(until));
    let end = done(machine.on_released(at(2.0), told(2.0, Released::Done)));
    assert!(matches!(end, End::Confirmed(Ok(Released::Done))));
}

/// S6, from the other side: no failure that had no effect, and none that came later, excuses a loss.
#[test]
fn a_loss_is_none_the_less_one_after_a_release_that_was_refused() {
    let (machine, _) = call(held_until(at(300.0), Some(store(3.0))));
    let refused = refused(ErrorKind::Unavailable);
    let (machine, until) = sleep(machine.on_released(at(0.1), refused));
    let (machine, _) = call(machine.on_wake(until));
    let (machine, _) = call(machine.on_released(at(0.5), told(0.5, Released::Absent)));
    let (machine, until) = sleep(machine.on_settled(at(2.0), unknown()));
    let (machine, _) = call(machine.on_wake(until));
    let last = Settlement::Final(Released::Absent);
    let end = done(machine.on_settled(at(5.0), told(5.0, last)));
    assert!(matches!(end, End::Confirmed(Ok(Released::Absent))));
}
