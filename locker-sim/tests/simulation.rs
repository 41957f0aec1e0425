//! The simulation of the core: 100,000 histories over the models of six stores, without a violation,
//! and with everything in them that is worth seeing.
//!
//! That it can fail is shown by `scripts/prove-simulation`. A failure prints its history; one seed
//! alone, with everything that happened in it:
//!
//! ```console
//! cargo run -p locker-sim -- --seed 4711
//! ```

use locker_sim::campaign::{self, Campaign};
use locker_sim::{Fault, Kind, Mark, run};
use std::time::{Duration, Instant};

/// How many histories every test run plays.
const HISTORIES: u64 = 100_000;

/// How many faults there must be in them.
const FAULTS: u64 = 2_000_000;

/// How often each kind of fault, and each interleaving that is worth seeing, must have been seen.
const EACH: u64 = 100;

/// How long they may take. The promise is half of it, on two processors.
const LIMIT: Duration = Duration::from_secs(600);

/// How much of a failing history is shown; `locker-simulate` shows all of it.
const LAST_LINES: usize = 120;

fn show(seed: u64) -> String {
    let again = run(seed, true);
    let lines = again.history.lines();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    format!(
        "seed {seed}:\n{}\n\nreplay: cargo run -p locker-sim -- --seed {seed}",
        last.join("\n"),
    )
}

#[test]
fn a_hundred_thousand_histories_keep_every_promise() {
    let began = Instant::now();
    let campaign = campaign::play(0..HISTORIES, |_| {});
    let took = began.elapsed();
    println!("{campaign}{took:>12.1?} in all");
    if let Some((seed, _)) = &campaign.worst {
        panic!("{}", show(*seed));
    }
    assert_was_worth_it(&campaign);
    assert!(took < LIMIT, "{took:?}");
}

/// A simulation in which nothing goes wrong proves nothing.
fn assert_was_worth_it(campaign: &Campaign) {
    let Campaign {
        histories,
        tally,
        faults,
        marks,
        kinds,
        ..
    } = campaign;
    assert_eq!(*histories, HISTORIES);
    assert!(faults.total() >= FAULTS, "{} faults", faults.total());
    assert!(tally.grants > 10 * histories, "{} grants", tally.grants);
    for kind in Kind::ALL {
        let played = kinds[kind as usize];
        assert!(played > histories / 10, "{kind}: {played} histories");
    }
    for fault in Fault::ALL {
        let struck = faults.of(fault);
        assert!(struck >= EACH, "{fault}: {struck} are too few");
    }
    for mark in Mark::ALL {
        let seen = marks.of(mark);
        assert!(seen >= EACH, "{mark}: {seen} are too few");
    }
}

#[test]
fn one_seed_replays_one_history() {
    for seed in [0, 1, 7, 4711, u64::MAX] {
        let (first, second) = (run(seed, true), run(seed, true));
        assert_eq!(first.history.digest(), second.history.digest());
        assert_eq!(first.history.lines(), second.history.lines());
        assert!(first.history.lines().len() > 20);
        let unread = run(seed, false);
        assert_eq!(
            first.history.digest(),
            unread.history.digest(),
            "looking changes nothing"
        );
        let other = run(seed ^ 2, false);
        assert_ne!(first.history.digest(), other.history.digest());
    }
}
