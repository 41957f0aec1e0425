//! S4: what is asked under one owner hash changes nothing when the record holds another.
//!
//! An extension whose commit takes its time may be committed when the record that it extended has run
//! out. Its row was locked all the while, so nobody else has got it meanwhile: it is its own record still.

use super::{Fact, Invariant, View, Violation};
use crate::sim::op::Op;
use crate::sim::store::Kind;

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
            let locked = || {
                let after = after.as_ref().is_some_and(|it| owners.contains(&it.owner));
                let extends = matches!(op, Op::Extend(..));
                view.plan.kind == Kind::Postgres && extends && before.is_none() && after
            };
            if !mine && before != after && !locked() {
                let how = format!("`{op}` changed {before:?} to {after:?}");
                return Err(Violation::new("S4 (scoped writes)", how));
            }
        }
        Ok(())
    }
}
