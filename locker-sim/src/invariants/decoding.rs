//! S11: bytes that are no record are an error for their key, never a grant, and no harm to others.

use super::{Fact, Invariant, View, Violation};
use locker_core::Key;

#[derive(Debug, Default)]
pub(super) struct Decoding {
    planted: Vec<Key>,
}

impl Invariant for Decoding {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            match fact {
                Fact::Planted { keys } => self.planted.clone_from(keys),
                Fact::Claimed {
                    key,
                    granted,
                    corrupt,
                } => {
                    let planted = self.planted.contains(key);
                    if (planted && *granted) || (!planted && *corrupt) {
                        let how = format!("{key}: planted {planted}, granted {granted}");
                        return Err(Violation::new("S11 (total decoding)", how));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
