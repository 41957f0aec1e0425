//! S6: a job that lost its lock never looks like a success. "Completed, and confirmed" means that
//! its own release found its own record; and in no case was the loss there before the job ended.
//!
//! And a job whose release took effect has not lost its lock, whatever reply was lost on the way.

use super::super::op::Op;
use super::{Fact, Invariant, View, Violation};
use locker_core::OwnerHash;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Success {
    /// Owners whose record went by their own request. Texts, because only they have an order.
    given_back: BTreeSet<Box<str>>,
    /// Those among them where it was a release, and no attempt that landed late.
    released: BTreeSet<Box<str>>,
    lost: BTreeSet<Box<str>>,
}

fn text(owner: &OwnerHash) -> Box<str> {
    owner.as_str().into()
}

impl Invariant for Success {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            match fact {
                Fact::Record {
                    before: Some(before),
                    after: None,
                    by: Some(op @ (Op::Release(owner) | Op::Settle(owner, _))),
                    ..
                } if before.owner == *owner => {
                    self.given_back.insert(text(owner));
                    if matches!(op, Op::Release(_)) {
                        self.released.insert(text(owner));
                    }
                }
                Fact::Lost { owner } => {
                    self.lost.insert(text(owner));
                }
                Fact::Completed {
                    owner,
                    confirmed,
                    sound,
                } => {
                    let given_back = self.given_back.contains(owner.as_str());
                    let lost = self.lost.contains(owner.as_str());
                    let lost = lost && !view.is_cloned(owner);
                    if !sound || lost || (*confirmed && !given_back) {
                        let how = format!(
                            "{owner} completed; confirmed {confirmed}, sound {sound}, lost {lost}, \
                             given back {given_back}"
                        );
                        return Err(Violation::new("S6 (no false success)", how));
                    }
                }
                // What a clone has given back is another matter (A6).
                Fact::Late { owner, sound: true }
                    if self.released.contains(owner.as_str()) && !view.is_cloned(owner) =>
                {
                    let how = format!("{owner} was released, and its job was told of a loss");
                    return Err(Violation::new("S6 (no false loss)", how));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
