//! S3: a record is replaced only if it had expired, or if its process was dead by the store's own
//! judgement: at that very moment, or before, because death is one-way (as long as the store keeps
//! what it has acknowledged). And who was robbed does not live again: a renewal that is being committed
//! has been waited for.

use super::{Fact, Invariant, View, Violation};
use locker_core::ProcessHash;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct TakeOver {
    robbed: BTreeSet<ProcessHash>,
}

impl Invariant for TakeOver {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let broken = |how| Err(Violation::new("S3 (take-over of the dead only)", how));
        if view.is_breached() {
            return Ok(());
        }
        for fact in view.facts {
            match fact {
                // An expired record is no record: `before` is what the request met.
                Fact::Record {
                    before: Some(old),
                    after: Some(new),
                    ..
                } if old.owner != new.owner => {
                    if old.alive {
                        let (new, old) = (&new.owner, &old.owner);
                        return broken(format!("{new} robbed {old}, whose process lives"));
                    }
                    self.robbed.insert(old.owner.process().clone());
                }
                Fact::Revived { process } if self.robbed.contains(process) => {
                    return broken(format!("{process} was robbed, and lives again"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
