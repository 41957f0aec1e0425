//! S3: a record is replaced only if it had expired, or if its process was dead by the store's own
//! judgement: at that very moment, or before, because death is one-way (as long as the store keeps
//! what it has acknowledged).

use super::{Fact, Invariant, View, Violation};

#[derive(Debug)]
pub(super) struct TakeOver;

impl Invariant for TakeOver {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            // An expired record is no record: `before` is what the request met.
            if let Fact::Record {
                before: Some(old),
                after: Some(new),
                ..
            } = fact
                && old.owner != new.owner
                && old.alive
                && !view.is_breached()
            {
                let how = format!("{} robbed {}, whose process lives", new.owner, old.owner);
                return Err(Violation::new("S3 (take-over of the dead only)", how));
            }
        }
        Ok(())
    }
}
