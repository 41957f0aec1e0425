//! Every order of small histories: two processes and one lock, under a network of which one of them can
//! expect nothing. S1 to S5 after every step.
//!
//! The simulation, `locker-sim`, draws histories from a world that is far larger; here nothing is
//! drawn, and nothing left out. Each history below is small enough that *all* that can happen in it is
//! played, in every order, and the number of its states is known: a change of the machines that changes
//! that number is looked at, and the number written anew.
//!
//! What is bounded: the number of ticks, one incarnation and one acquisition of each process, one network
//! that is bad, and one request at a time that was given up and may still land.
//!
//! Machines are moved by value and cannot be copied, so a state is reached by playing its choices again
//! from the beginning; two orders that come to the same state go on as one.

mod ask;
mod process;
mod world;

use process::Short;
use std::collections::HashSet;
use world::{Choice, Scenario, World};

/// What a search has seen.
#[derive(Debug, Default)]
struct Seen {
    states: usize,
    deepest: usize,
    /// States in which the lock has gone from one process to the other.
    handed_over: usize,
    /// States in which a guard was lost.
    lost: usize,
}

/// Plays everything that can happen.
fn explore(scenario: Scenario) -> Seen {
    let mut known = HashSet::new();
    let mut seen = Seen::default();
    let mut paths: Vec<Vec<Choice>> = vec![Vec::new()];
    while let Some(mut path) = paths.pop() {
        let mut world = World::begin(scenario);
        for (step, choice) in path.iter().enumerate() {
            if let Err(why) = world.choose(*choice) {
                panic!("{why}, in {scenario:?} after {:?}", &path[..=step]);
            }
        }
        // The first choice of each state goes on from it; the others come here again.
        while known.insert(world.digest()) {
            seen.deepest = seen.deepest.max(path.len());
            seen.handed_over += usize::from(world.grants() > 1);
            seen.lost += usize::from(world.has_lost());
            let mut choices = world.choices().into_iter();
            let Some(first) = choices.next() else { break };
            for other in choices {
                let mut next = path.clone();
                next.push(other);
                paths.push(next);
            }
            path.push(first);
            if let Err(why) = world.choose(first) {
                panic!("{why}, in {scenario:?} after {path:?}");
            }
        }
    }
    seen.states = known.len();
    seen
}

/// Both live, and the first one holds the lock; its network is the bad one.
const HELD: Scenario = Scenario {
    ticks: 0,
    born: true,
    adverse: 0,
    crash: false,
    gives_back: false,
    fails_over: false,
    short: Short::Life,
};

/// The owner hears from the store late, or never, for as long as a lock lives; another server takes
/// the store's place at the worst moment.
#[test]
fn an_owner_that_is_cut_off_stops_before_anybody_takes_over() {
    let seen = explore(Scenario {
        ticks: 8,
        fails_over: true,
        ..HELD
    });
    assert_eq!(seen.states, 143_272, "all of them");
    assert!(seen.handed_over > 1000 && seen.lost > 1000, "{seen:?}");
}

/// The owner gives the lock back, or is killed, and what it has sent is executed afterwards.
#[test]
fn what_an_owner_sent_before_its_end_harms_nobody_afterwards() {
    let seen = explore(Scenario {
        ticks: 7,
        crash: true,
        gives_back: true,
        ..HELD
    });
    assert_eq!(seen.states, 46_112, "all of them");
    assert!(seen.handed_over > 1000, "{seen:?}");
}

/// It is the other one, which waits for the lock, whose network is bad. The owner may be killed.
#[test]
fn a_take_over_that_is_overtaken_by_anything_robs_nobody() {
    let seen = explore(Scenario {
        ticks: 5,
        adverse: 1,
        crash: true,
        ..HELD
    });
    assert_eq!(seen.states, 25_034, "all of them");
    assert!(seen.handed_over > 100, "{seen:?}");
}

/// Two processes come to be, and both want the lock.
#[test]
fn two_that_are_born_together_never_both_hold_the_lock() {
    let seen = explore(Scenario {
        ticks: 7,
        born: false,
        ..HELD
    });
    assert_eq!(seen.states, 19_217, "all of them");
    assert!(seen.handed_over > 50, "{seen:?}");
}

/// It is the lock that runs out, under a process that lives. The claim, too, may be answered late.
#[test]
fn a_lock_that_is_not_extended_is_given_up_before_anybody_gets_it() {
    let of_a_claim = explore(Scenario {
        ticks: 5,
        born: false,
        fails_over: true,
        short: Short::Lock,
        ..HELD
    });
    let of_an_extension = explore(Scenario {
        ticks: 8,
        fails_over: true,
        short: Short::Lock,
        ..HELD
    });
    let states = [of_a_claim.states, of_an_extension.states];
    assert_eq!(states, [18_436, 53_224], "all of them");
    assert!(of_a_claim.lost > 100, "{of_a_claim:?}");
    assert!(of_an_extension.handed_over > 1000, "{of_an_extension:?}");
}
