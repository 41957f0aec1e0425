//! Interleavings of an incarnation of a process, played on its machine.

mod common;

use common::*;
use locker_core::backend::{Birth, Renewal};
use locker_core::machine::Report;
use locker_core::machine::report::{End, Request};
use locker_core::{ErrorKind, Instant};
use std::time::Duration;

const T: Duration = Duration::from_secs(10);

/// Born by a request that was sent at 0 s and answered at 0.1 s: it lives until 8.8 s.
fn born() -> (Report, Instant) {
    let (machine, request) = call(Report::begin(at(0.0), process(1), timing(), 1));
    assert_eq!(request, Request::Create(process(1)));
    let created = Birth::Created { valid_for: T };
    sleep(machine.on_birth(at(0.1), told(0.1, created)))
}

fn renewed() -> Renewal {
    Renewal::Renewed { valid_for: T }
}

#[test]
fn a_birth_counts_from_when_it_was_sent() {
    let (machine, until) = born();
    let deadline = machine.deadline().unwrap();
    assert_eq!(deadline.get(), Some(at(8.8)));
    assert!(until >= at(1.6) && until <= at(2.0), "{until:?}");
}

/// Attack 7: a birth that may have happened earlier, or that was answered too late, is none.
#[test]
fn a_birth_that_is_not_certain_is_abandoned() {
    let begin = || call(Report::begin(at(0.0), process(1), timing(), 1)).0;
    let lost = done(begin().on_birth(at(1.5), unknown()));
    assert!(matches!(lost, End::Stillborn(Some(_))));
    let exists = done(begin().on_birth(at(0.1), told(0.1, Birth::Exists)));
    assert!(matches!(exists, End::Stillborn(None)));
    let created = Birth::Created { valid_for: T };
    let late = done(begin().on_birth(at(8.8), told(8.8, created)));
    assert!(matches!(late, End::Stillborn(None)));
}

#[test]
fn a_renewal_counts_from_when_it_was_sent() {
    let (machine, _) = born();
    let (machine, request) = call(machine.on_wake(at(2.0)));
    assert_eq!(request, Request::Renew(process(1)));
    let (machine, until) = sleep(machine.on_renewal(at(3.4), told(3.4, renewed())));
    assert_eq!(machine.deadline().unwrap().get(), Some(at(10.8)));
    assert!(
        until <= at(4.0),
        "the next is due one period after the last was sent"
    );
}

/// A store that guarantees less than was asked for is believed; more is not.
#[test]
fn the_guarantee_of_the_store_counts_and_never_more_than_was_asked() {
    let more = Renewal::Renewed {
        valid_for: Duration::from_secs(20),
    };
    let (machine, _) = call(born().0.on_wake(at(2.0)));
    let (machine, _) = sleep(machine.on_renewal(at(2.1), told(2.1, more)));
    assert_eq!(machine.deadline().unwrap().get(), Some(at(10.8)));
    let created = Birth::Created {
        valid_for: Duration::from_secs(5),
    };
    let (machine, _) = call(Report::begin(at(0.0), process(1), timing(), 1));
    let (machine, _) = sleep(machine.on_birth(at(0.1), told(0.1, created)));
    assert_eq!(machine.deadline().unwrap().get(), Some(at(4.3)));
}

/// Attack 6 b: a report that was executed in time and acknowledged late revives nothing.
#[test]
fn a_renewal_acknowledged_after_the_deadline_counts_for_nothing() {
    let (machine, _) = call(born().0.on_wake(at(8.7)));
    let deadline = machine.deadline().unwrap().clone();
    let end = done(machine.on_renewal(at(8.8), told(8.75, renewed())));
    assert!(matches!(end, End::Lapsed));
    assert!(
        !deadline.is_valid(at(8.7)),
        "for ever, even by an earlier reading"
    );
}

/// Attack 14: a job has seen the deadline pass; the acknowledgement that is handled afterwards,
/// by an earlier reading of the clock, finds it lost.
#[test]
fn whoever_saw_the_deadline_pass_has_ended_the_incarnation() {
    let (machine, _) = call(born().0.on_wake(at(8.7)));
    assert!(!machine.deadline().unwrap().is_valid(at(8.8)));
    let end = done(machine.on_renewal(at(8.79), told(8.79, renewed())));
    assert!(matches!(end, End::Lapsed));
}

#[test]
fn a_failed_report_is_repeated_soon_until_the_incarnation_lapses() {
    let (mut machine, mut until) = born();
    let mut asked = 0;
    let end = loop {
        let now = until;
        match machine.on_wake(now) {
            locker_core::machine::Step::Call(next, Request::Renew(_)) => {
                asked += 1;
                let failed = next.on_renewal(now, refused(ErrorKind::Unavailable));
                (machine, until) = sleep(failed);
                assert!(until.since(now) <= timing().retry_after);
            }
            step => break done(step),
        }
    };
    assert!(matches!(end, End::Lapsed) && until >= at(8.8));
    assert!(asked >= 27, "{asked} reports");
}

/// Death is one-way: the record that is gone stays gone.
#[test]
fn a_record_that_is_gone_ends_the_incarnation_at_once() {
    let (machine, _) = call(born().0.on_wake(at(2.0)));
    let deadline = machine.deadline().unwrap().clone();
    let end = done(machine.on_renewal(at(2.1), told(2.1, Renewal::Gone)));
    assert!(matches!(end, End::Gone));
    assert_eq!(deadline.get(), None);
}

/// Attack 10: nothing is valid any more before the first byte of the retirement is sent.
#[test]
fn a_retirement_ends_the_incarnation_before_it_is_sent() {
    let (machine, _) = born();
    let deadline = machine.deadline().unwrap().clone();
    let (machine, request) = call(machine.retire(at(1.0)));
    assert_eq!(request, Request::Retire(process(1)));
    assert_eq!(deadline.get(), None);
    assert!(machine.is_retiring());
    // It is repeated, with pauses, until the record has run out by itself.
    let (machine, until) = sleep(machine.on_retired(at(2.5), unknown()));
    assert_eq!(until, at(2.5) + timing().retry_after);
    let (machine, _) = call(machine.on_wake(until));
    let (machine, _) = sleep(machine.on_retired(at(9.9), unknown()));
    // And then nobody says that the store has confirmed it.
    let end = done(machine.on_wake(at(10.1)));
    assert!(matches!(end, End::RanOut(Some(_))), "{end:?}");
}

#[test]
fn a_retirement_ends_with_the_stores_word() {
    let (machine, _) = call(born().0.retire(at(1.0)));
    let end = done(machine.on_retired(at(1.1), told(1.1, ())));
    assert!(matches!(end, End::Retired), "{end:?}");
}
