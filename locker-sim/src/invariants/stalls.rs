//! L5: a stall of the store that is shorter than 0.4 T loses no lock.

use super::{Fact, Invariant, View, Violation};

#[derive(Debug)]
pub(super) struct Stalls;

impl Invariant for Stalls {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        if !view.plan.stall_only {
            return Ok(());
        }
        for fact in view.facts {
            if let Fact::Lost { owner } = fact {
                let how = format!("{owner} is lost, and nothing happened but a stall");
                return Err(Violation::new("L5 (a short stall loses nothing)", how));
            }
        }
        Ok(())
    }
}
