//! S5: once lost, never valid again. Who was told "invalid" is never told "valid" afterwards. A loss
//! that was told stays as it was told: the owner may clean up until `safe_until`, and no
//! acknowledgement moves that.

use super::{Fact, HandRef, Held, Invariant, View, Violation};
use locker_core::Instant;
use locker_core::machine::Loss;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Sticky {
    told_invalid: BTreeSet<HandRef>,
    /// What was told, and until when the tenure was good when it was last looked at.
    lost: BTreeMap<HandRef, (Loss, Option<Instant>)>,
}

impl Invariant for Sticky {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        let broken = |how| Err(Violation::new("S5 (sticky loss)", how));
        for fact in view.facts {
            match fact {
                Fact::Read { hand, valid: false } => {
                    self.told_invalid.insert(*hand);
                }
                Fact::Read { hand, valid: true } if self.told_invalid.contains(hand) => {
                    return broken(format!("{hand:?} was told invalid, and then valid"));
                }
                _ => {}
            }
        }
        for Held { hand, tenure, .. } in &view.tenures {
            let (loss, until) = (tenure.loss(), tenure.valid_until());
            if let Some((told, before)) = self.lost.get(hand) {
                let revived = before.is_none() && until.is_some();
                if loss != Some(told) || until > Some(told.safe_until) || revived {
                    let owner = tenure.owner();
                    return broken(format!(
                        "{owner} was told {told:?}, and then is good until {until:?}"
                    ));
                }
            }
            if let Some(loss) = loss {
                self.lost.insert(*hand, (loss.clone(), until));
            }
        }
        Ok(())
    }
}
