//! S1: no two guards of one key are valid at the same true moment, each by its own clock. And L4:
//! when the store gives a key to somebody, no former owner is valid any more, so an owner that is
//! cut off has stopped before the first moment at which anyone can take over.

use super::{Invariant, View, Violation};

#[derive(Debug)]
pub(super) struct Exclusion;

impl Invariant for Exclusion {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let valid: Vec<_> = view.tenures.iter().filter(|held| held.is_valid()).collect();
        // There are a handful at most.
        for (place, held) in valid.iter().enumerate() {
            let owner = held.tenure.owner();
            let rival = valid[place + 1..].iter().find(|other| {
                other.tenure.owner().key() == owner.key()
                    && !held.is_excused(view)
                    && !other.is_excused(view)
            });
            if let Some(rival) = rival {
                let how = format!("{owner} and {} are both valid", rival.tenure.owner());
                return Err(Violation::new("S1 (exclusion)", how));
            }
        }
        for granted in view.facts.iter().filter_map(super::Fact::new_owner) {
            let rival = valid.iter().find(|held| {
                held.tenure.owner().key() == granted.owner.key()
                    && held.tenure.owner() != &granted.owner
                    && !held.is_excused(view)
            });
            if let Some(rival) = rival {
                let (new, old) = (&granted.owner, rival.tenure.owner());
                let how = format!("the store gave the lock to {new} while {old} was valid");
                return Err(Violation::new("L4 (the owner stops first)", how));
            }
        }
        Ok(())
    }
}
