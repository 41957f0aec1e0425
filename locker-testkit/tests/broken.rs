//! The cases are proved: stores that differ from a right one in one method are each rejected, and
//! by the cases that are about that difference.

mod stores;

use locker_testkit::{CASES, Fixture, run};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use stores::{Broken, Mistake, Spoiled};

/// The cases that a store does not pass.
fn rejecting<F: Fixture>() -> BTreeSet<&'static str> {
    let fails = |case: &locker_testkit::NamedCase| {
        let case = *case;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            run::<F>(async move |namespace| case.run(namespace).await);
        }));
        ran.is_err()
    };
    let rejecting = CASES.iter().filter(|case| fails(case));
    rejecting.map(|case| case.name).collect()
}

/// A case that rejects everything proves nothing: a mistake is seen by the cases about it (at most
/// five are named with each) and by their near relatives, and the great rest passes.
const AT_MOST: usize = 10;

fn is_rejected_by<M: Mistake>(named: &[&str]) {
    fixture_is_rejected_by::<Broken<M>>(named);
}

fn fixture_is_rejected_by<F: Fixture>(named: &[&str]) {
    let rejecting = rejecting::<F>();
    for name in named {
        assert!(
            rejecting.contains(name),
            "{name} should reject this store; it is rejected by {rejecting:#?}"
        );
    }
    assert!(
        rejecting.len() <= AT_MOST,
        "this store has one mistake; it is rejected by {rejecting:#?}"
    );
}

/// A store without a mistake passes, so it is the mistake that is rejected and not the wrapper.
#[test]
fn a_store_without_a_mistake_passes() {
    let rejected = rejecting::<Broken<stores::Faithful>>();
    assert_eq!(rejected, BTreeSet::new());
    let rejected = rejecting::<Spoiled<stores::Careful>>();
    assert_eq!(rejected, BTreeSet::new(), "foreign bytes, rightly answered");
}

#[test]
fn a_release_that_ignores_the_owner_is_rejected() {
    is_rejected_by::<stores::ReleasesAnyones>(&[
        "release::a_release_by_a_former_owner_changes_nothing",
        "release::an_almost_equal_owner_releases_nothing",
        "take_over::the_robbed_owner_is_told_and_can_do_nothing",
    ]);
}

#[test]
fn a_create_that_overlooks_expiry_is_rejected() {
    is_rejected_by::<stores::OverlooksExpiry>(&[
        "create::an_expired_lock_is_granted_to_another",
        "token::tokens_grow_across_expiry",
    ]);
}

#[test]
fn a_create_that_takes_over_is_rejected() {
    is_rejected_by::<stores::CreateTakesOver>(&["create::a_create_never_takes_over"]);
}

#[test]
fn a_create_that_ignores_not_after_is_rejected() {
    is_rejected_by::<stores::CreatesLate>(&[
        "late::a_late_create_is_refused",
        "late::a_late_create_does_not_land_after_its_release",
    ]);
}

#[test]
fn a_create_that_is_not_idempotent_is_rejected() {
    is_rejected_by::<stores::LocksItselfOut>(&[
        "create::a_repeated_create_answers_the_same_token",
        "create::a_repeated_create_never_shortens",
    ]);
}

#[test]
fn a_take_over_of_the_living_is_rejected() {
    is_rejected_by::<stores::RobsTheLiving>(&[
        "take_over::the_lock_of_a_living_process_is_not_taken_over",
        "take_over::a_renewed_process_is_not_robbed",
    ]);
}

#[test]
fn a_take_over_of_whatever_is_there_now_is_rejected() {
    is_rejected_by::<stores::IgnoresTheObservation>(&["take_over::a_stale_observation_is_refused"]);
}

#[test]
fn a_token_that_repeats_is_rejected() {
    is_rejected_by::<stores::RepeatsTokens>(&[
        "token::tokens_grow_across_releases",
        "token::tokens_grow_in_the_order_of_grants",
    ]);
}

#[test]
fn an_extension_that_revives_is_rejected() {
    is_rejected_by::<stores::RevivesTheExpired>(&[
        "upkeep::an_expired_lock_is_not_revived",
        "upkeep::a_released_lock_is_not_revived",
    ]);
}

#[test]
fn a_renewal_of_the_dead_is_rejected() {
    is_rejected_by::<stores::RenewsTheDead>(&[
        "process::a_lapsed_process_is_not_renewed",
        "process::a_retired_process_is_not_renewed",
        "process::an_unborn_process_is_not_renewed",
    ]);
}

#[test]
fn a_settlement_that_is_final_too_soon_is_rejected() {
    is_rejected_by::<stores::SettlesTooSoon>(&["late::settling_stays_open_until_not_after"]);
}

#[test]
fn a_check_that_overlooks_the_mark_is_rejected() {
    is_rejected_by::<stores::OverlooksTheMark>(&["force::a_mark_leaves_the_record"]);
}

#[test]
fn a_watch_that_puts_everybody_first_is_rejected() {
    is_rejected_by::<stores::PutsEverybodyFirst>(&[
        "watch::waiters_have_places_in_the_order_of_enrolment",
    ]);
}

#[test]
fn a_create_over_foreign_bytes_is_rejected() {
    fixture_is_rejected_by::<Spoiled<stores::CreatesOver>>(&[
        "corrupt::garbage_is_an_error_and_no_grant",
        "corrupt::a_newer_format_is_never_taken_over",
        "corrupt::a_record_of_another_key_is_no_grant",
        "corrupt::a_malformed_owner_is_no_grant",
        "corrupt::a_bad_token_is_no_grant",
    ]);
}

#[test]
fn a_batch_that_fails_for_one_member_is_rejected() {
    fixture_is_rejected_by::<Spoiled<stores::FailsTheBatch>>(&[
        "corrupt::a_corrupt_member_harms_no_other",
    ]);
}

#[test]
fn a_listing_that_hides_what_it_cannot_read_is_rejected() {
    fixture_is_rejected_by::<Spoiled<stores::Hides>>(&[
        "corrupt::a_corrupt_record_hides_no_other_from_a_listing",
    ]);
}

#[test]
fn a_release_of_foreign_bytes_is_rejected() {
    fixture_is_rejected_by::<Spoiled<stores::ReleasesForeign>>(&[
        "corrupt::a_release_over_foreign_bytes_is_not_done",
    ]);
}
