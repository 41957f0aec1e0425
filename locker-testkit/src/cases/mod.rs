//! The conformance cases, in one list, by theme.
//!
//! A case is an async function that takes a [`Case`] and panics when the store does not
//! do what the contract says. Its doc comment names the promise (S1, L3), attack or hazard (CU-7,
//! PG-2, F27) that it is about. The list below is the only one: the tests of every store are made
//! from it, and so is [`CASES`].

pub mod contention;
pub mod corrupt;
pub mod create;
pub mod force;
pub mod late;
pub mod list;
pub mod process;
pub mod read;
pub mod release;
pub mod sweep;
pub mod take_over;
pub mod text;
pub mod token;
pub mod upkeep;
pub mod watch;

use crate::case::Case;
use std::fmt;
use std::pin::Pin;

/// Hands the list of all cases, and whatever else it is given, to another macro of this crate.
#[doc(hidden)]
#[macro_export]
macro_rules! __for_each_case {
    ($callback:ident; $($arguments:tt)*) => {
        $crate::$callback! {
            $($arguments)*;
            create {
                a_free_lock_is_granted,
                a_held_lock_is_refused_and_its_holder_named,
                a_refused_create_changes_nothing,
                a_repeated_create_answers_the_same_token,
                a_repeated_create_counts_the_full_ttl_anew,
                a_repeated_create_never_shortens,
                an_expired_lock_is_granted_to_another,
                an_expired_lock_of_the_same_owner_is_a_new_grant,
                a_lock_does_not_expire_early,
                a_create_of_a_retired_process_is_refused,
                a_create_of_an_unborn_process_is_refused,
                a_create_never_takes_over,
                another_acquisition_of_the_same_process_is_refused,
                locks_of_different_keys_are_independent,
            }
            take_over {
                the_lock_of_a_retired_process_is_taken_over,
                the_lock_of_a_lapsed_process_is_taken_over,
                the_lock_of_a_living_process_is_not_taken_over,
                a_renewed_process_is_not_robbed,
                a_stale_observation_is_refused,
                a_forged_observation_is_refused,
                a_released_lock_is_absent_to_a_take_over,
                an_expired_lock_is_absent_to_a_take_over,
                a_repeated_take_over_answers_the_same_token,
                a_repeated_take_over_counts_the_full_ttl_anew,
                a_take_over_sets_its_own_ttl,
                the_robbed_owner_is_told_and_can_do_nothing,
                a_take_over_by_the_dead_is_refused,
                a_refusal_tells_the_living_from_the_dead,
            }
            late {
                a_late_create_is_refused,
                a_late_create_does_not_land_after_its_release,
                a_late_repetition_changes_nothing,
                a_late_take_over_is_refused,
                a_claim_without_limit_is_granted,
                settling_removes_what_landed,
                settling_stays_open_until_not_after,
                settling_is_final_after_not_after,
                what_is_settled_lands_no_more,
                settling_leaves_anothers_lock_alone,
            }
            upkeep {
                an_own_lock_is_extended,
                an_extension_is_the_same_grant,
                an_extension_never_shortens,
                an_expired_lock_is_not_revived,
                a_released_lock_is_not_revived,
                anothers_lock_is_not_extended,
                a_marked_lock_is_not_extended,
                a_check_extends_nothing,
                an_extended_batch_is_answered_in_order,
                a_checked_batch_is_answered_in_order,
                a_full_batch_is_answered,
                an_empty_batch_is_answered,
                contention_does_not_lose_a_healthy_lock,
            }
            release {
                a_released_lock_is_free,
                a_repeated_release_is_absent,
                a_lock_that_never_was_is_absent,
                a_release_by_a_former_owner_changes_nothing,
                a_release_by_an_earlier_acquisition_changes_nothing,
                an_almost_equal_owner_releases_nothing,
                an_expired_lock_is_absent_to_its_release,
                the_dead_may_still_release,
                a_release_and_the_next_create_do_not_get_lost,
            }
            process {
                the_born_live,
                the_unborn_are_dead,
                a_second_birth_changes_nothing,
                a_retired_name_is_never_born_again,
                a_lapsed_name_is_never_born_again,
                a_renewal_prolongs_life,
                a_lapsed_process_is_not_renewed,
                a_retired_process_is_not_renewed,
                an_unborn_process_is_not_renewed,
                a_retirement_is_repeatable,
                a_process_does_not_die_early,
                simultaneous_births_have_one_winner,
                death_is_one_way_under_a_race_of_renewals,
                the_sides_of_a_process_are_one,
                a_closed_connection_is_not_a_death,
            }
            token {
                tokens_grow_across_releases,
                tokens_grow_across_expiry,
                tokens_grow_across_take_overs,
                tokens_grow_across_force_release,
                tokens_grow_across_settlement,
                tokens_grow_across_restarts,
                the_token_that_is_read_is_the_one_that_was_granted,
                tokens_grow_in_the_order_of_grants,
            }
            contention {
                simultaneous_creates_have_one_winner,
                simultaneous_take_overs_have_one_winner,
                simultaneous_repetitions_are_one_grant,
                a_counter_under_the_lock_loses_nothing,
                creates_of_many_keys_at_once_are_all_granted,
                a_dropped_create_is_settled,
            }
            force {
                a_mark_leaves_the_record,
                a_marked_lock_of_the_living_is_not_taken_over,
                a_marked_lock_is_free_once_its_owner_releases_it,
                the_next_grant_is_unmarked,
                a_marked_lock_of_the_dead_is_taken_over_unmarked,
                a_marked_lock_expires,
                a_repeated_mark_changes_nothing,
                force_now_frees_at_once,
                force_on_a_former_owner_changes_nothing,
            }
            text {
                hostile_keys_round_trip,
                hostile_keys_do_not_collide,
                hostile_traces_round_trip,
                hostile_hosts_round_trip,
                the_longest_names_fit,
                hostile_keys_are_watched,
            }
            list {
                an_empty_store_lists_nothing,
                every_held_lock_is_listed_once,
                a_listed_lock_is_as_it_is_read,
                only_keys_with_the_prefix_are_listed,
                free_locks_are_not_listed,
                a_listing_survives_changes_between_its_pages,
                the_living_are_listed_once,
                the_lapsed_are_not_listed,
            }
            read {
                a_free_lock_reads_as_none,
                a_held_lock_reads_the_same_to_everybody,
                reading_prolongs_nothing,
                free_in_is_the_smaller_of_both_ttls,
                free_in_of_the_living_is_not_zero,
                free_in_of_the_dead_is_zero,
                the_store_time_advances,
                the_limits_are_sensible,
            }
            watch {
                a_watch_is_confirmed,
                a_release_wakes_the_waiter,
                a_retirement_of_the_holder_wakes_the_waiters_of_all_its_locks,
                force_now_wakes_the_waiter,
                a_settlement_wakes_the_waiter,
                every_release_wakes_again,
                waiters_have_places_in_the_order_of_enrolment,
                observers_have_no_place,
                a_waiter_that_leaves_frees_its_place,
                a_dead_waiter_has_no_place,
                a_confirmed_watch_misses_no_release,
                hints_are_about_their_key,
            }
            sweep {
                a_sweep_keeps_what_is_held,
                a_sweep_keeps_the_living,
                tokens_grow_across_a_sweep,
                tokens_grow_across_a_sweep_of_the_old,
                a_sweep_takes_only_the_old,
                a_sweep_keeps_the_fresh_tombstones,
            }
            corrupt {
                garbage_is_an_error_and_no_grant,
                a_newer_format_is_never_taken_over,
                a_record_of_another_key_is_no_grant,
                a_malformed_owner_is_no_grant,
                a_bad_token_is_no_grant,
                a_corrupt_member_harms_no_other,
                a_corrupt_record_hides_no_other_from_a_listing,
                a_release_over_foreign_bytes_is_not_done,
            }
        }
    };
}

/// Makes one `#[test]` of every conformance case, on the store of this
/// [`Fixture`](crate::Fixture).
///
/// The tests are in one module per theme: `create::a_free_lock_is_granted`, and so on.
#[macro_export]
macro_rules! conformance {
    ($fixture:ty) => {
        type ConformanceFixture = $fixture;
        $crate::__for_each_case! { __case_tests; }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __case_tests {
    (; $($theme:ident { $($name:ident,)* })*) => {$(
        mod $theme {$(
            #[test]
            fn $name() {
                $crate::run::<super::ConformanceFixture>($crate::cases::$theme::$name);
            }
        )*}
    )*};
}

/// One case of the list.
#[derive(Clone, Copy)]
pub struct NamedCase {
    /// Its theme and name: `create::a_free_lock_is_granted`.
    pub name: &'static str,
    run: fn(Case) -> Pin<Box<dyn Future<Output = ()>>>,
}

impl NamedCase {
    /// Runs it in this namespace.
    pub async fn run(self, case: Case) {
        (self.run)(case).await;
    }
}

impl fmt::Debug for NamedCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __case_list {
    (; $($theme:ident { $($name:ident,)* })*) => {
        /// Every case, for whoever runs them in another way than
        /// [`conformance!`](crate::conformance) does.
        pub const CASES: &[NamedCase] = &[$($(
            NamedCase {
                name: concat!(stringify!($theme), "::", stringify!($name)),
                run: |case| Box::pin($theme::$name(case)),
            },
        )*)*];
    };
}

__for_each_case! { __case_list; }
