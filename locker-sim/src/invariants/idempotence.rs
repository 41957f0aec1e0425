//! S7: every acquisition is idempotent under its owner hash: a claim is never refused because of
//! the claimant's own record. A claimant that waits for itself waits for ever.

use super::{Fact, Invariant, View, Violation};

#[derive(Debug)]
pub(super) struct Idempotence;

impl Invariant for Idempotence {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            if let Fact::Refused {
                claimant,
                because_of,
            } = fact
                && claimant == because_of
            {
                let how = format!("{claimant} is refused because of itself");
                return Err(Violation::new("S7 (idempotent acquisition)", how));
            }
        }
        Ok(())
    }
}
