//! No guard without a record of it, and no record without a guard: what a caller believes that it
//! holds is what its process keeps alive.

use super::{Invariant, View, Violation};

#[derive(Debug)]
pub(super) struct Guards;

impl Invariant for Guards {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for process in view.processes.iter().filter(|process| process.up) {
            if let Some(how) = process.guard_without_record() {
                return Err(Violation::new("guards and records", how));
            }
        }
        Ok(())
    }
}
