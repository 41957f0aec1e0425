//! S4: what is asked under one owner hash changes nothing when the record holds another.

use super::{Fact, Invariant, View, Violation};

#[derive(Debug)]
pub(super) struct Scope;

impl Invariant for Scope {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            let Fact::Record {
                before,
                after,
                by: Some(op),
                ..
            } = fact
            else {
                continue;
            };
            let Some(owners) = op.scope() else { continue };
            let mine = before
                .as_ref()
                .is_some_and(|before| owners.contains(&before.owner));
            if !mine && before != after {
                let how = format!("`{op}` changed {before:?} to {after:?}");
                return Err(Violation::new("S4 (scoped writes)", how));
            }
        }
        Ok(())
    }
}
