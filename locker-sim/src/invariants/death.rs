//! Death is one-way: a process record that was seen to be gone never comes back. It is the ground
//! that S3 stands on: whoever looked first and swapped afterwards robs nobody. A store that forgets
//! what it has acknowledged (against A2) may forget a death.

use super::{Fact, Invariant, View, Violation};
use locker_core::ProcessHash;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Death {
    born: BTreeSet<ProcessHash>,
}

impl Invariant for Death {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            let Fact::Process {
                process,
                before,
                after: true,
            } = fact
            else {
                continue;
            };
            let first = self.born.insert(process.clone());
            if !before && !first && view.breach.is_none() {
                let how = format!("{process} was dead, and lives again");
                return Err(Violation::new("S3 (death is one-way)", how));
            }
        }
        Ok(())
    }
}
