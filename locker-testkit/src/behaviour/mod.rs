//! The behaviours of the locker as its users see it, in one list, on any store.
//!
//! Where [`cases`](crate::cases) speak to a store, these speak to a
//! [`Locker`](distributed_locker::Locker) over it: what the two libraries that Locker takes over
//! test or promise, the attacks that concern the driver, and the faults that can be played inside
//! one process. What needs processes that die is elsewhere.

// The bodies of tests: what goes wrong here is a failed expectation.
#![allow(clippy::unwrap_used, clippy::large_futures)]

pub mod ending;
pub mod faults;
pub mod heartbeats;
pub mod interleavings;
pub mod listening;
pub mod locks;
pub mod losses;
pub mod upkeep;
pub mod waiting;
mod world;

pub use world::World;

use crate::fixture::Fixture;
use std::time::Duration;

/// Hands the list of all behaviours, and whatever else it is given, to another macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __for_each_behaviour {
    ($callback:ident; $($arguments:tt)*) => {
        $crate::$callback! {
            $($arguments)*;
            locks {
                acquire_and_release_show_in_the_owner_hash_status,
                a_second_acquire_by_the_same_process_is_refused,
                a_second_process_is_refused_and_told_who_holds_it,
                a_single_try_answers_the_guard_or_nothing,
                nobody_releases_anothers_lock,
                a_dropped_guard_gives_its_lock_back,
                a_dropped_acquisition_leaves_nothing,
                a_released_lock_is_acquired_with_a_greater_token,
                hostile_keys_and_traces_are_shown_as_they_were_given,
                a_bad_key_is_refused_without_asking_the_store,
                one_round_trip_acquires_a_free_lock_and_one_releases_it,
            }
            heartbeats {
                a_run_keeps_its_lock_while_it_beats,
                a_job_that_does_not_beat_loses_its_lock,
                a_beat_counts_for_one_whole_lock_ttl,
                an_automatic_heartbeat_needs_no_beats,
                a_guard_that_beats_keeps_its_lock,
                a_standby_that_never_beats_leads_for_longer_than_the_lock_ttl,
                a_standby_that_must_beat_loses_its_lock_without,
                a_burst_of_heartbeats_costs_the_store_nothing,
                an_extended_lock_outlives_its_ttl,
                a_heartbeat_in_vain_stays_in_vain,
            }
            losses {
                the_old_owner_stops_itself_after_a_take_over,
                the_old_owner_stops_itself_after_a_take_over_by_its_own_process,
                a_lost_lock_is_never_valid_again,
                a_job_that_ends_before_it_sees_the_loss_does_not_complete,
                a_job_that_is_lost_is_never_polled_again,
                a_signalled_job_goes_on_and_its_value_comes_late,
                what_outlives_a_guard_is_told_at_once,
                what_a_release_finds_is_told_as_it_is,
                a_release_that_is_cancelled_is_no_loss,
                an_extension_that_fails_too_late_says_that_the_lock_is_lost,
                an_operator_gets_the_lock_after_its_owner_has_stopped,
                an_error_of_the_job_reaches_the_caller_as_it_is,
                a_release_that_is_not_confirmed_stands_beside_the_result_of_the_job,
                a_vanished_lock_is_noticed_within_one_recheck,
                a_vanished_process_record_ends_the_incarnation,
            }
            waiting {
                a_mutex_in_one_process_never_overlaps,
                a_mutex_across_two_processes_never_overlaps,
                a_mutex_gives_up_at_its_deadline_and_names_the_holder,
                a_mutex_takes_what_an_acquisition_may_ask_for,
                a_release_wakes_the_waiter,
                a_holder_of_whom_nothing_is_heard_is_waited_for,
                local_waiters_are_served_in_order,
                a_waiter_that_leaves_holds_up_nobody,
                a_standby_takes_over_on_release,
                a_standby_takes_over_from_the_dead,
                a_standby_takes_over_by_periodic_retry,
                a_process_that_dies_frees_its_lock_within_one_liveness_ttl,
            }
            listening {
                a_release_is_heard_by_who_only_listens,
                a_listener_subscribes_anew_and_says_that_it_may_have_missed_something,
                a_listener_ends_with_its_locker,
                a_release_is_seen_where_the_store_gives_no_hints,
                a_read_that_fails_is_no_release_and_hides_none,
            }
            ending {
                draining_releases_each_lock_only_when_its_work_has_ended,
                draining_refuses_new_work_and_sends_waiters_home,
                a_guard_outlives_the_handles_of_its_locker,
                the_last_handle_retires_the_process,
                terminating_with_a_job_still_running_keeps_its_lock,
                terminating_frees_the_process_record_at_once,
                a_record_that_is_not_removed_within_the_grace_is_told,
                a_record_that_runs_out_is_not_told_as_retired,
                a_terminated_locker_says_so,
            }
            faults {
                a_lost_reply_to_acquire_is_settled_by_asking_again,
                a_lost_request_to_acquire_is_settled_by_asking_again,
                an_acquisition_that_lands_after_its_caller_gave_up_leaves_nothing,
                an_acquisition_held_back_beyond_its_time_never_lands,
                a_lost_reply_to_release_is_settled_in_the_background,
                a_lost_reply_to_a_report_loses_nothing,
                a_lost_reply_to_an_extension_loses_nothing,
                a_birth_of_unknown_outcome_is_abandoned,
                an_owner_cut_off_has_stopped_before_anybody_takes_over,
                a_process_cut_off_recovers_by_itself,
                lost_replies_end_the_owner_although_its_record_stays_fresh,
                a_short_stall_of_the_store_loses_no_lock,
                a_stalled_reporter_ends_the_guards_in_time,
                a_grant_of_an_ended_incarnation_is_worth_nothing,
                errors_of_the_reporter_are_delivered,
                what_upkeep_meets_is_told_once_per_recheck,
                what_departs_in_vain_is_told,
                the_reporter_writes_regularly,
                held_locks_cost_batches_not_requests,
            }
            upkeep {
                a_lock_given_back_during_a_check_shifts_nobodys_answer,
                a_failed_extension_is_repeated_soon,
                what_has_failed_is_asked_apart_from_the_others,
                silence_costs_a_round_one_batch,
                who_has_failed_once_does_not_wait_for_what_is_silent,
                retiring_in_vain_costs_no_connection,
                what_departs_into_silence_keeps_nobody_waiting,
                what_was_not_heard_before_departs_apart,
            }
            interleavings {
                what_an_ended_incarnation_left_is_forgotten,
                a_retirement_that_fails_is_repeated_with_pauses,
                draining_sends_home_who_waits_for_the_store,
                a_waiter_whose_claims_were_answered_leaves_nothing_to_settle,
                a_waiter_that_is_granted_too_late_goes_on_waiting,
                incarnations_that_the_store_denies_are_replaced_with_pauses,
                jobs_of_a_process_that_is_called_dead_stop_at_once,
                subscriptions_that_end_at_once_are_renewed_with_pauses,
                a_waiter_gives_up_at_its_deadline_though_the_store_fails,
                a_lost_lock_is_freed_under_its_job_although_a_release_was_lost,
                a_release_goes_on_where_records_do_not_run_out,
                connects_that_hang_do_not_pile_up,
                a_backend_that_panics_costs_one_request,
                a_lost_reply_to_a_release_is_no_loss,
                a_lost_reply_to_the_reporters_release_is_no_loss,
            }
        }
    };
}

/// Makes one `#[test]` of every behaviour, on the store of this
/// [`Fixture`](crate::Fixture).
#[macro_export]
macro_rules! behaviours {
    ($fixture:ty) => {
        type BehaviourFixture = $fixture;
        $crate::__for_each_behaviour! { __behaviour_tests; }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __behaviour_tests {
    (; $($theme:ident { $($name:ident,)* })*) => {$(
        mod $theme {$(
            #[test]
            fn $name() {
                $crate::behaviour::run::<super::BehaviourFixture, _>(
                    $crate::behaviour::$theme::$name::<super::BehaviourFixture>,
                );
            }
        )*}
    )*};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __behaviour_list {
    (; $($theme:ident { $($name:ident,)* })*) => {
        /// Every behaviour with its name, for whoever runs them in another way than
        /// [`behaviours!`](crate::behaviours) does.
        pub fn all<F: Fixture>() -> Vec<(&'static str, fn())> {
            vec![$($(
                (
                    concat!(stringify!($theme), "::", stringify!($name)),
                    || run::<F, _>($theme::$name::<F>),
                ),
            )*)*]
        }
    };
}

__for_each_behaviour! { __behaviour_list; }

/// Far more than the longest needs on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs one behaviour in a fresh namespace.
pub fn run<F, C>(behaviour: impl FnOnce(World<F>) -> C)
where
    F: Fixture,
    C: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the test");
    let shown = runtime.block_on(async {
        let shown = async { behaviour(World::open().await).await };
        tokio::time::timeout(LIMIT, shown).await
    });
    shown.expect("what waits for ever has not been shown");
}
