//! S2: the tokens of a key strictly grow in the order in which the store grants it; and a caller
//! gets the token that the store gave.
//!
//! A store that forgot a grant (against A2) may grant the same owner once more, by a request that lands
//! late, while the answer of the forgotten grant is still on its way: that answer names an older token.
//! So may an owner that exists twice (against A6), one of which gives back what the other was granted.

use super::{Fact, Invariant, View, Violation};
use crate::fault::Fault;
use locker_core::{Key, OwnerHash, Token};
use std::collections::{BTreeMap, HashSet};

#[derive(Debug, Default)]
pub(super) struct Fencing {
    /// The last grant of each key, by the store.
    last: BTreeMap<Key, (OwnerHash, Token)>,
    /// Every grant that there ever was.
    given: HashSet<(OwnerHash, Token)>,
}

impl Invariant for Fencing {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let broken = |how| Err(Violation::new("S2 (fencing)", how));
        for fact in view.facts {
            if let Some(new) = fact.new_owner() {
                let grant = (new.owner.clone(), new.token);
                self.given.insert(grant.clone());
                let last = self.last.insert(new.owner.key().clone(), grant);
                if let Some((old, token)) = last
                    && token >= new.token
                {
                    let how = format!(
                        "{old} had {token}, after it {} got {}",
                        new.owner, new.token
                    );
                    return broken(how);
                }
            }
            if let Fact::Granted { owner, token, .. } = fact {
                let given = self.last.get(owner.key());
                let mine = given.filter(|(given, _)| given == owner);
                let forgets = view.plan.breach.is_some_and(Fault::forgets);
                let forgotten = || {
                    let twice = forgets && view.is_breached() || view.is_cloned(owner);
                    twice && self.given.contains(&(owner.clone(), *token))
                };
                if mine.is_some_and(|(_, given)| given != token) && !forgotten() {
                    return broken(format!("{owner} was told {token}, the store has {mine:?}"));
                }
            }
        }
        Ok(())
    }
}
