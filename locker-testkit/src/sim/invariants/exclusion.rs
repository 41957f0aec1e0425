//! S1: no two guards of one key are valid at the same true moment, each by its own clock. And L4:
//! when the store gives a key to somebody, no former owner is valid any more, so an owner that is
//! cut off has stopped before the first moment at which anyone can take over.

use super::{Invariant, View, Violation, is_valid};

#[derive(Debug)]
pub(super) struct Exclusion;

impl Invariant for Exclusion {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let valid: Vec<_> = view
            .tenures()
            .filter(|(_, now, tenure)| is_valid(tenure, *now))
            .map(|(_, _, tenure)| tenure.owner())
            .collect();
        // There are a handful at most.
        for (place, owner) in valid.iter().enumerate() {
            let rivals = &valid[place + 1..];
            if let Some(rival) = rivals.iter().find(|other| other.key() == owner.key()) {
                let how = format!("{owner} and {rival} are both valid");
                return Err(Violation::new("S1 (exclusion)", how));
            }
        }
        for granted in view.facts.iter().filter_map(super::Fact::new_owner) {
            let rival = view.tenures().find(|(_, now, tenure)| {
                tenure.owner().key() == granted.owner.key()
                    && tenure.owner() != &granted.owner
                    && is_valid(tenure, *now)
            });
            if let Some((_, _, rival)) = rival {
                let (new, old) = (&granted.owner, rival.owner());
                let how = format!("the store gave the lock to {new} while {old} was valid");
                return Err(Violation::new("L4 (the owner stops first)", how));
            }
        }
        Ok(())
    }
}
