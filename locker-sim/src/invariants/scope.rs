//! S4: what is asked under one owner hash changes nothing when the record holds another.
//!
//! An extension whose commit takes its time may be committed when the record that it extended has run
//! out. Its row was locked all the while, so nobody else has got it meanwhile: it is its own record still.

use super::{Fact, Invariant, View, Violation};
use crate::op::Op;
use crate::store::Kind;
use locker_core::OwnerHash;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Whose record each key had last, unless a request has removed it.
    last: BTreeMap<usize, OwnerHash>,
}

impl Invariant for Scope {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            let Fact::Record {
                key,
                before,
                after,
                by,
            } = fact
            else {
                continue;
            };
            let last = match after {
                Some(after) => self.last.insert(*key, after.owner.clone()),
                None if by.is_some() => self.last.remove(key),
                None => None,
            };
            let Some((op, owners)) = by.as_ref().and_then(|op| Some((op, op.scope()?))) else {
                continue;
            };
            let mine = before
                .as_ref()
                .is_some_and(|before| owners.contains(&before.owner));
            let run_out = || {
                let extends = matches!(op, Op::Extend(..)) && view.plan.kind == Kind::Postgres;
                extends && before.is_none() && last.is_some_and(|last| owners.contains(&last))
            };
            if !mine && before != after && !run_out() {
                let how = format!("`{op}` changed {before:?} to {after:?}");
                return Err(Violation::new("S4 (scoped writes)", how));
            }
        }
        Ok(())
    }
}
