//! A dead process blocks nobody: an acquisition is not turned away because of a holder whom the store
//! calls dead, unless the store itself has refused to let that lock be taken over. And when the
//! faults have ended, no lock of the dead lies about while somebody waits who is able to ask (L2).

use super::{Fact, Invariant, View, Violation};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a waiter may need that was told nothing: its poll, and two requests.
const SOON: Duration = Duration::from_millis(750);

#[derive(Debug, Default)]
pub(super) struct DeadHolders {
    /// Since when, in good weather, the dead hold a lock that somebody waits for.
    since: BTreeMap<usize, Duration>,
}

impl Invariant for DeadHolders {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            if let Fact::TurnedAway {
                owner,
                holder_dead: true,
                refused: false,
            } = fact
            {
                let how = format!("{owner} is turned away because of a dead process");
                return Err(Violation::new("L2 (the dead block nobody)", how));
            }
        }
        if !view.healed {
            return Ok(());
        }
        for (place, key) in view.keys.iter().enumerate() {
            let holder = view.store.holder(key).filter(|holder| !holder.alive);
            let Some(holder) =
                holder.filter(|_| view.processes.iter().any(|it| it.waits_for(key, view.at)))
            else {
                self.since.remove(&place);
                continue;
            };
            let since = *self.since.entry(place).or_insert(view.at);
            if view.at.saturating_sub(since) > SOON {
                let how = format!("{} is dead and still holds its lock", holder.owner);
                return Err(Violation::new("L2 (the dead block nobody)", how));
            }
        }
        Ok(())
    }
}
