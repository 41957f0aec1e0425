//! S8: no owner hash is ever used for a second acquisition, but by a clone (against A6).

use super::{Fact, Invariant, View, Violation};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Identity(BTreeSet<Box<str>>);

impl Invariant for Identity {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            if let Fact::Asked { owner } = fact
                && !self.0.insert(owner.as_str().into())
                && !view.is_cloned(owner)
            {
                let how = format!("{owner} is used twice");
                return Err(Violation::new("S8 (identity)", how));
            }
        }
        Ok(())
    }
}
