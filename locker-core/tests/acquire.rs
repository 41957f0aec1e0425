//! Interleavings of an acquisition, played on its machine.

mod common;

use common::*;
use locker_core::backend::{Claim, Claimed, Hint, Liveness};
use locker_core::machine::Acquire;
use locker_core::machine::acquire::{AcquireStep, Outcome, Patience, Request, TURN};
use locker_core::time::StoreClock;
use locker_core::{ErrorKind, Instant, Token};
use std::time::Duration;

const POLL: Duration = Duration::from_secs(5);

fn patience(wait_until: Option<Instant>) -> Patience {
    Patience {
        wait_until,
        ask_until: at(3.25),
        poll_every: POLL,
        cheap_death_poll: None,
    }
}

/// Begins at 0 s, when the store's clock was last told.
fn begin(patience: Patience) -> AcquireStep {
    let mut clock = StoreClock::default();
    clock.observe(at(0.0), store(0.0), at(0.0), &timing());
    Acquire::begin(at(0.0), owner(1, 1), timing(), patience, clock, 1)
}

fn created(step: AcquireStep) -> (Acquire, Claim) {
    match call(step) {
        (machine, Request::TryCreate(claim)) => (machine, claim),
        other => panic!("a create was due, but: {other:?}"),
    }
}

/// A waiter that was told at 0 s that a living process holds the lock.
fn waiting(wait_until: Instant) -> (Acquire, Instant) {
    let (machine, _) = created(begin(patience(Some(wait_until))));
    let held = held(&owner(2, 1), Some(alive(2)));
    sleep(machine.on_claimed(at(0.0), told(0.0, Claimed::Held(held))))
}

/// Attack 1: idempotence makes every attempt of unknown outcome a loaded gun after the release.
#[test]
fn an_attempt_whose_reply_was_lost_is_remembered_when_a_later_one_is_granted() {
    let (machine, first) = created(begin(patience(None)));
    let (machine, again) = sleep(machine.on_claimed(at(1.5), unknown()));
    assert_eq!(machine.unsettled(), Some(first.not_after));
    let (machine, second) = created(machine.on_wake(again));
    assert_eq!(
        second.owner, first.owner,
        "one owner hash, whatever happens"
    );
    let answer = told(2.0, Claimed::Granted(Token::new(9)));
    let end = done(machine.on_claimed(at(2.0), answer));
    assert_eq!(end.unsettled, Some(first.not_after));
    // Attack 7: the TTL counts from the request that was answered, and not from an earlier one.
    assert!(matches!(end.outcome, Outcome::Granted { sent, .. } if sent == again));
}

#[test]
fn an_attempt_that_was_certainly_not_applied_leaves_nothing_unsettled() {
    let (machine, _) = created(begin(patience(None)));
    let (machine, _) = sleep(machine.on_claimed(at(0.1), refused(ErrorKind::Unavailable)));
    assert_eq!(machine.unsettled(), None);
    let (machine, _) = created(machine.on_wake(at(0.4)));
    let end = done(machine.on_claimed(at(0.5), refused(ErrorKind::Denied)));
    assert_eq!(end.unsettled, None);
    assert!(matches!(end.outcome, Outcome::Failed(_)));
}

/// Attack 1: of several unknown attempts the one that may land last decides.
#[test]
fn the_latest_of_several_unknown_attempts_is_what_must_be_settled() {
    let (machine, _) = created(begin(patience(Some(at(60.0)))));
    let (machine, again) = sleep(machine.on_claimed(at(1.5), unknown()));
    let (machine, second) = created(machine.on_wake(again));
    let (machine, again) = sleep(machine.on_claimed(again + POLL, unknown()));
    let (machine, _) = created(machine.on_wake(again));
    let held = held(&owner(2, 1), Some(alive(2)));
    let (machine, _) = sleep(machine.on_claimed(again, told(9.0, Claimed::Held(held))));
    assert_eq!(machine.unsettled(), Some(second.not_after));
}

/// S3: nobody is dead but by the store's own word.
#[test]
fn a_process_that_may_be_alive_is_never_taken_over() {
    let asked = || {
        let (machine, _) = created(begin(patience(Some(at(60.0)))));
        let held = held(&owner(2, 1), None);
        let (machine, request) = call(machine.on_claimed(at(0.0), told(0.0, Claimed::Held(held))));
        assert_eq!(request, Request::ReadProcess(process(2)));
        machine
    };
    sleep(asked().on_liveness(at(0.1), told(0.1, Liveness::Unknown)));
    sleep(asked().on_liveness(at(0.1), told(0.1, alive(2))));
    let (machine, again) = sleep(asked().on_liveness(at(1.5), unknown()));
    // Not even when the same is heard once more.
    let (machine, _) = created(machine.on_wake(again));
    let held = held(&owner(2, 1), None);
    let (_, request) = call(machine.on_claimed(again, told(2.0, Claimed::Held(held))));
    assert_eq!(request, Request::ReadProcess(process(2)));
    // An error is no answer, and one that cannot be repaired ends the acquisition.
    let end = done(asked().on_liveness(at(0.1), refused(ErrorKind::Corrupt)));
    assert!(matches!(end.outcome, Outcome::Failed(_)));
    // Only this is.
    let (_, request) = call(asked().on_liveness(at(0.1), told(0.1, Liveness::Dead)));
    assert!(matches!(request, Request::TakeOver(..)));
}

/// The lock lies where the store answers, and its holder's process where it does not: the one does not
/// become unknown because the other is.
#[test]
fn a_holder_of_whom_nothing_is_heard_is_a_holder() {
    let asked = |patience| {
        let (machine, _) = created(begin(patience));
        let held = held(&owner(2, 1), None);
        call(machine.on_claimed(at(0.25), told(0.0, Claimed::Held(held)))).0
    };
    for error in [unknown(), refused(ErrorKind::Busy)] {
        let end = done(asked(patience(None)).on_liveness(at(1.75), error));
        assert!(matches!(end.outcome, Outcome::Held(held) if held.data.owner == owner(2, 1)));
        assert_eq!(end.unsettled, None);
    }
    // Who waits hears hints, and looks again soon, although he is told to look seldom.
    let seldom = Patience {
        poll_every: Duration::from_secs(600),
        ..patience(Some(at(600.0)))
    };
    let looks_again = |machine: Acquire, now| {
        let (machine, _) = created(machine.on_wake(now));
        let held = held(&owner(2, 1), None);
        call(machine.on_claimed(now, told(2.0, Claimed::Held(held)))).0
    };
    let mut machine = asked(seldom);
    let mut now = at(1.75);
    let (retry, recheck) = (timing().retry_after, timing().recheck_every);
    for longest in [retry, retry * 4, retry * 16, recheck, recheck, recheck] {
        let (waits, until) = sleep(machine.on_liveness(now, unknown()));
        assert!(waits.is_waiting());
        let pause = until.since(now);
        assert!(pause <= longest && pause >= longest * 4 / 5, "{pause:?}");
        now = until;
        machine = looks_again(waits, now);
    }
    // Whoever is heard of is waited for as long as it lives, and is looked for soon when it is not.
    let (waits, now) = sleep(machine.on_liveness(now, told(2.0, alive(2))));
    let (waits, until) = sleep(looks_again(waits, now).on_liveness(now, unknown()));
    assert!(until.since(now) <= retry);
    // Also where that is told with the lock.
    let (machine, _) = created(waits.on_wake(until));
    let heard = held(&owner(2, 1), Some(alive(2)));
    let (waits, now) = sleep(machine.on_claimed(until, told(2.0, Claimed::Held(heard))));
    let (waits, until) = sleep(looks_again(waits, now).on_liveness(now, unknown()));
    assert!(until.since(now) <= retry, "{:?}", until.since(now));
    created(waits.on_hint(now, Hint::Free { place: 0 }));
    // Nobody waits beyond his time.
    let (_, until) = sleep(asked(patience(Some(at(1.9)))).on_liveness(at(1.75), unknown()));
    assert_eq!(until, at(1.9));
}

/// S3: the take-over names the record that was observed.
#[test]
fn a_take_over_compares_what_was_observed() {
    let (machine, _) = created(begin(patience(None)));
    let seen = held(&owner(2, 1), Some(Liveness::Dead));
    let observed = seen.observed.clone();
    let (machine, request) = call(machine.on_claimed(at(0.1), told(0.1, Claimed::Held(seen))));
    assert!(matches!(&request, Request::TakeOver(_, by) if *by == observed));
    // Attack 1 holds for a take-over as well.
    let Request::TakeOver(claim, _) = request else {
        unreachable!()
    };
    let (machine, _) = sleep(machine.on_claimed(at(1.6), unknown()));
    assert_eq!(machine.unsettled(), Some(claim.not_after));
}

/// Found by the simulation: a take-over without an answer, or one that came too late, was repeated
/// as a create; the store told of the same dead holder, and that was taken for its refusal to let
/// his lock be taken over. Who did not wait was turned away because of a dead process.
#[test]
fn a_take_over_that_came_too_late_is_repeated_as_it_was() {
    let dead = held(&owner(2, 1), Some(Liveness::Dead));
    let taking = |step| match call(step) {
        (machine, Request::TakeOver(claim, observed)) => (machine, claim, observed),
        other => panic!("a take-over was due, but: {other:?}"),
    };
    let (machine, _) = created(begin(patience(None)));
    let step = machine.on_claimed(at(0.0), told(0.0, Claimed::Held(dead.clone())));
    let (machine, first, observed) = taking(step);
    let (machine, again) = sleep(machine.on_claimed(at(1.5), unknown()));
    let (machine, second, as_before) = taking(machine.on_wake(again));
    assert_eq!((&second.owner, &as_before), (&first.owner, &observed));
    let (machine, third, as_before) =
        taking(machine.on_claimed(again, told(9.0, Claimed::TooLate)));
    assert_eq!((&third.owner, &as_before), (&first.owner, &observed));
    assert!(third.not_after > store(9.0), "by the time that was told");
    // Refused in so many words, it is not argued about.
    let end = done(machine.on_claimed(again, told(9.0, Claimed::Held(dead))));
    assert!(matches!(end.outcome, Outcome::Held(_)));
    assert_eq!(end.unsettled, Some(first.not_after), "one had no answer");
}

/// Attack 1: the answer that says "too late" bears the time that the next claim needs.
#[test]
fn a_claim_that_came_too_late_is_repeated_by_the_time_that_was_told() {
    let (machine, first) = created(begin(patience(None)));
    assert_eq!(first.not_after, store(3.0));
    // The store's clock is an hour ahead of the estimate.
    let (machine, second) = created(machine.on_claimed(at(0.1), told(3600.0, Claimed::TooLate)));
    assert_eq!(second.not_after, store(3603.0));
    assert_eq!(machine.unsettled(), None, "it can land nowhere");
}

#[test]
fn a_store_whose_clock_runs_away_is_asked_with_pauses() {
    let (mut machine, _) = created(begin(patience(None)));
    for n in 1..3 {
        let told = told(f64::from(n) * 100.0, Claimed::TooLate);
        (machine, _) = created(machine.on_claimed(at(0.1), told));
    }
    let (_, until) = sleep(machine.on_claimed(at(0.1), told(300.0, Claimed::TooLate)));
    assert!(until > at(0.1));
}

#[test]
fn a_claim_of_an_ended_incarnation_ends_the_acquisition() {
    let (machine, first) = created(begin(patience(None)));
    let (machine, again) = sleep(machine.on_claimed(at(1.5), unknown()));
    let (machine, _) = created(machine.on_wake(again));
    let end = done(machine.on_claimed(at(2.0), told(2.0, Claimed::OwnerDead)));
    assert!(matches!(end.outcome, Outcome::OwnerDead));
    assert_eq!(end.unsettled, Some(first.not_after));
}

/// Attack 36: the first tries at once, the others look whether there is anything left to try.
#[test]
fn who_is_first_tries_at_once_and_who_is_behind_looks_first() {
    let (machine, _) = waiting(at(60.0));
    created(machine.on_hint(at(1.0), Hint::Free { place: 0 }));
    let (machine, _) = waiting(at(60.0));
    created(machine.on_hint(at(1.0), Hint::Rebuilt));
    let (machine, _) = waiting(at(60.0));
    let (machine, until) = sleep(machine.on_hint(at(1.0), Hint::Free { place: 2 }));
    assert_eq!(until, at(1.0) + TURN * 2);
    assert!(machine.is_waiting(), "a second hint is of use");
    let (machine, request) = call(machine.on_wake(until));
    assert!(matches!(request, Request::ReadLock(_)));
    // Still free: now it is tried.
    created(machine.on_lock(until, told(1.1, None)));
}

#[test]
fn who_looks_and_finds_a_new_holder_goes_on_waiting() {
    let (machine, _) = waiting(at(60.0));
    let (machine, until) = sleep(machine.on_hint(at(1.0), Hint::Free { place: 1 }));
    let (machine, _) = call(machine.on_wake(until));
    let held = held(&owner(3, 1), Some(alive(3)));
    let (machine, _) = sleep(machine.on_lock(until, told(1.1, Some(held))));
    assert!(machine.is_waiting());
}

/// S10: a forged place, and hints that come faster than turns, put nothing off.
#[test]
fn no_hint_puts_off_what_would_have_been_tried_without_it() {
    let (mut machine, try_at) = waiting(at(60.0));
    for n in 0..1000 {
        let now = at(f64::from(n) * 0.001);
        let place = if n == 0 { u32::MAX } else { 50 };
        let (next, until) = sleep(machine.on_hint(now, Hint::Free { place }));
        assert!(until <= try_at, "{until:?} is later than {try_at:?}");
        machine = next;
    }
}

#[test]
fn a_waiter_looks_at_the_earliest_possible_death_of_the_holder() {
    let (machine, _) = created(begin(Patience {
        poll_every: Duration::from_secs(600),
        ..patience(Some(at(600.0)))
    }));
    let held = held(&owner(2, 1), Some(alive(2)));
    let death = at(0.5) + held.free_in + Duration::from_millis(1);
    let (_, until) = sleep(machine.on_claimed(at(0.5), told(0.5, Claimed::Held(held))));
    assert_eq!(until, death);
}

/// The deadline of the caller holds, whatever the machine was waiting for.
#[test]
fn nothing_is_asked_once_the_deadline_is_over() {
    let (machine, until) = waiting(at(2.0));
    assert_eq!(until, at(2.0));
    let end = done(machine.on_wake(at(2.0)));
    assert!(matches!(end.outcome, Outcome::Held(_)));

    let (machine, _) = waiting(at(2.0));
    let (machine, until) = sleep(machine.on_hint(at(1.99), Hint::Free { place: 3 }));
    assert_eq!(until, at(2.0));
    let end = done(machine.on_wake(until));
    assert!(matches!(end.outcome, Outcome::Held(_)));

    // A store that does not answer is no reason to wait longer.
    let (machine, _) = created(begin(patience(Some(at(1.6)))));
    let end = done(machine.on_claimed(at(1.5), unknown()));
    assert!(matches!(end.outcome, Outcome::Failed(_)) && end.unsettled.is_some());
}

/// Asking whether the holder is dead must not put off the try.
#[test]
fn a_cheap_look_at_the_holder_leaves_the_next_try_where_it_was() {
    let every = Duration::from_millis(100);
    let (machine, _) = created(begin(Patience {
        cheap_death_poll: Some(every),
        ..patience(Some(at(60.0)))
    }));
    let first = held(&owner(2, 1), Some(alive(2)));
    let (mut machine, mut until) =
        sleep(machine.on_claimed(at(0.0), told(0.0, Claimed::Held(first))));
    assert_eq!(until, at(0.1));
    let mut looks = 0;
    loop {
        match machine.on_wake(until) {
            AcquireStep::Call(next, Request::ReadProcess(_)) => {
                looks += 1;
                let answer = told(0.0, alive(2));
                (machine, until) = sleep(next.on_liveness(until, answer));
            }
            AcquireStep::Call(_, Request::TryCreate(_)) => break,
            other => panic!("{other:?}"),
        }
        assert!(until <= at(0.0) + POLL);
    }
    assert!(looks >= 39, "{looks} looks");
}
