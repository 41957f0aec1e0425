//! The exclusion checker: was any lock ever held by two at a time, and did its tokens grow?
//!
//! It judges records of what really happened, from a simulation, a fault test or a soak: one
//! [`Grant`] for each time that somebody believed to hold a lock, all by one clock. It is exact: an
//! overlap is reported if and only if there is one, and touching intervals do not overlap. It sorts
//! once and looks at every grant once, so a soak of millions of grants is judged in seconds:
//! O(n log n).

use locker_core::{Key, Token};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// Somebody believed to hold a lock, from the acknowledged grant until the moment at which it gave
/// the lock back, lost it, or was killed: whichever was first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Which lock.
    pub key: Key,
    /// From when, until when, exclusively; in any unit, but by one clock for all grants.
    pub held: Range<u64>,
    /// The fencing token.
    pub token: Token,
    /// Who; for people, and to tell two grants apart.
    pub process: String,
}

/// What is wrong with a history of grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// Two believed to hold one lock at the same time.
    Overlap {
        /// Who was first.
        first: Box<Grant>,
        /// The first one that came while it was there.
        second: Box<Grant>,
    },
    /// Of two grants of one lock, the later one does not have the greater token.
    TokenOrder {
        /// The earlier one.
        earlier: Box<Grant>,
        /// The later one.
        later: Box<Grant>,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second, what) = match self {
            Self::Overlap { first, second } => (first, second, "overlaps"),
            Self::TokenOrder { earlier, later } => (earlier, later, "has no smaller token than"),
        };
        write!(
            f,
            "{}: {} {:?} with {} {what} {} {:?} with {}",
            first.key,
            first.process,
            first.held,
            first.token,
            second.process,
            second.held,
            second.token
        )
    }
}

/// Judges a history. Every grant that begins while another one of its key lasts is reported once,
/// with the one of these that lasts longest; every grant whose token is not greater than all before
/// it is reported once, with the greatest before it. An empty answer is a proof.
pub fn check<'a>(grants: impl IntoIterator<Item = &'a Grant>) -> Vec<Flaw> {
    let mut by_key: BTreeMap<&Key, Vec<&Grant>> = BTreeMap::new();
    for grant in grants {
        by_key.entry(&grant.key).or_default().push(grant);
    }
    let mut flaws = Vec::new();
    for (_, mut grants) in by_key {
        // Of two that begin together the smaller token came first; that they overlap is seen
        // either way.
        grants.sort_by_key(|grant| (grant.held.start, grant.token));
        check_key(&grants, &mut flaws);
    }
    flaws
}

fn check_key(grants: &[&Grant], flaws: &mut Vec<Flaw>) {
    // Of all before: the one that lasts longest, and the one with the greatest token.
    let mut longest: Option<&Grant> = None;
    let mut greatest: Option<&Grant> = None;
    for grant in grants {
        // Nobody ever held what ended before it began.
        let was_held = !grant.held.is_empty();
        if let Some(first) = longest
            && was_held
            && first.held.end > grant.held.start
        {
            flaws.push(Flaw::Overlap {
                first: Box::new(first.clone()),
                second: Box::new((*grant).clone()),
            });
        }
        if let Some(earlier) = greatest
            && earlier.token >= grant.token
        {
            flaws.push(Flaw::TokenOrder {
                earlier: Box::new(earlier.clone()),
                later: Box::new((*grant).clone()),
            });
        }
        if was_held && longest.is_none_or(|first| first.held.end < grant.held.end) {
            longest = Some(grant);
        }
        if greatest.is_none_or(|earlier| earlier.token < grant.token) {
            greatest = Some(grant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grant(key: &str, held: Range<u64>, token: u64) -> Grant {
        Grant {
            key: Key::new(key).unwrap(),
            held,
            token: Token::new(token),
            process: format!("p{token}"),
        }
    }

    fn overlaps(flaws: &[Flaw]) -> usize {
        let overlap = |flaw: &&Flaw| matches!(flaw, Flaw::Overlap { .. });
        flaws.iter().filter(overlap).count()
    }

    #[test]
    fn a_good_history_has_no_flaw_and_touching_is_not_overlapping() {
        let history = [
            grant("a", 0..10, 1),
            grant("a", 10..20, 2),
            grant("b", 5..15, 1),
            grant("a", 25..30, 7),
        ];
        assert_eq!(check(&history), []);
        assert_eq!(check(&[]), []);
    }

    #[test]
    fn an_overlap_of_one_unit_is_seen() {
        let history = [grant("a", 10..20, 2), grant("a", 0..11, 1)];
        let flaws = check(&history);
        assert_eq!(flaws.len(), 1, "{flaws:?}");
        assert!(flaws[0].to_string().contains("p1 0..11"), "{}", flaws[0]);
    }

    /// The neighbour in order of time is not always the one that overlaps.
    #[test]
    fn a_long_grant_overlaps_also_with_the_one_after_the_next() {
        let history = [
            grant("a", 0..100, 1),
            grant("a", 10..20, 2),
            grant("a", 30..40, 3),
        ];
        assert_eq!(overlaps(&check(&history)), 2);
    }

    #[test]
    fn a_token_that_repeats_or_goes_back_is_seen_behind_others_too() {
        let history = [
            grant("a", 0..1, 5),
            grant("a", 2..3, 9),
            grant("a", 4..5, 7),
            grant("a", 6..7, 9),
        ];
        let flaws = check(&history);
        assert_eq!(flaws.len(), 2, "{flaws:?}");
        assert_eq!(overlaps(&flaws), 0);
    }

    #[test]
    fn a_grant_that_was_over_before_it_began_holds_nothing() {
        let history = [
            grant("a", 0..10, 1),
            grant("a", 5..5, 2),
            grant("a", 10..11, 3),
        ];
        assert_eq!(check(&history), []);
    }

    #[test]
    fn a_million_grants_are_judged_at_once() {
        let history: Vec<_> = (0..1_000_000_u64)
            .map(|n| {
                grant(
                    if n % 2 == 0 { "a" } else { "b" },
                    n * 10..n * 10 + 10,
                    n + 1,
                )
            })
            .collect();
        assert_eq!(check(&history), []);
    }

    /// The obvious checker: every pair.
    fn naive(history: &[Grant]) -> (Vec<usize>, Vec<usize>) {
        let before = |a: &Grant, b: &Grant| (a.held.start, a.token) < (b.held.start, b.token);
        let intersect =
            |a: &Grant, b: &Grant| a.held.start.max(b.held.start) < a.held.end.min(b.held.end);
        let any = |place: usize, wrong: &dyn Fn(&Grant, &Grant) -> bool| {
            let later = &history[place];
            history.iter().any(|earlier| {
                earlier.key == later.key && before(earlier, later) && wrong(earlier, later)
            })
        };
        let places = |wrong: &dyn Fn(&Grant, &Grant) -> bool| {
            (0..history.len())
                .filter(|place| any(*place, wrong))
                .collect()
        };
        (places(&intersect), places(&|a, b| a.token >= b.token))
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_obvious_checker(
            drawn in proptest::collection::vec((0_usize..2, 0_u64..40, 0_u64..12, 1_u64..30), 0..24)
        ) {
            // No two grants begin together with one token: their order would be a matter of taste.
            let mut history: Vec<Grant> = Vec::new();
            for (key, start, length, token) in drawn {
                let new = grant(["a", "b"][key], start..start + length, token);
                let same = |old: &Grant| {
                    (&old.key, old.held.start, old.token) == (&new.key, new.held.start, new.token)
                };
                if !history.iter().any(same) {
                    history.push(new);
                }
            }
            let (mut overlapping, mut disordered) = (Vec::new(), Vec::new());
            for flaw in check(&history) {
                let (first, second, list) = match &flaw {
                    Flaw::Overlap { first, second } => (first, second, &mut overlapping),
                    Flaw::TokenOrder { earlier, later } => (earlier, later, &mut disordered),
                };
                prop_assert!(first.held.start <= second.held.start);
                list.extend(history.iter().position(|grant| grant == &**second));
            }
            overlapping.sort_unstable();
            disordered.sort_unstable();
            prop_assert_eq!((overlapping, disordered), naive(&history));
        }
    }
}
