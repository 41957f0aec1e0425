//! S7: there is no orphan. As long as a process runs, whatever record it has at the store is in one
//! of its hands: an acquisition, a held lock, or a lock on its way back. So whatever is dropped and
//! whatever reply is lost, somebody who lives will remove it; and what a dead process left can be
//! taken over. In the end nothing is left at all.
//!
//! "Soon" has a bound as well: when the faults have ended, what is on its way back is gone within
//! one recheck.

use super::{Fact, Invariant, View, Violation};
use crate::plan::timing;
use crate::process::Process;
use crate::process::hand::Stage;
use crate::store::Holder;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// The lives that have ended by their own will: they leave nothing.
    exited: BTreeSet<(String, u32)>,
    /// Since when, in good weather, a record is there that nobody wants any more.
    unwanted: BTreeMap<Box<str>, Duration>,
}

/// One recheck by the slowest clock, and the patience with one request that the faults have eaten.
fn soon() -> Duration {
    let timing = timing();
    (timing.recheck_every + timing.request_timeout) * 106 / 100 + Duration::from_millis(20)
}

impl Invariant for Orphans {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        // Only these change who knows of what, or what there is to know.
        let relevant = view.facts.iter().any(|fact| {
            matches!(
                fact,
                Fact::Record { .. } | Fact::Forgotten { .. } | Fact::Exited { .. }
            )
        });
        // A store that has lost data may have got back what was released, until its TTL is over.
        if !relevant || view.is_breached() {
            return Ok(());
        }
        for fact in view.facts {
            if let Fact::Exited { process, boot } = fact {
                self.exited.insert((format!("p{process}"), *boot));
            }
        }
        // A request that lands late may bring back what was gone: that is a new record.
        let holders = view.keys.iter().filter_map(|key| view.store.holder(key));
        let present: BTreeSet<Box<str>> = holders.map(|it| it.owner.as_str().into()).collect();
        self.unwanted.retain(|owner, _| present.contains(owner));
        for key in view.keys {
            // What a clone leaves under the name of both is nobody's (A6); it dies with the name.
            let known = |holder: &Holder| holder.alive && !view.is_cloned(&holder.owner);
            let Some(holder) = view.store.holder(key).filter(known) else {
                continue;
            };
            // A crashed life of a process: its record dies by itself, and the locks with it.
            let name = holder.owner.process();
            let processes = view.processes.iter();
            let named: Vec<&Process> = processes.filter(|it| it.is_named(name)).collect();
            let mut hands = named.iter().flat_map(|process| process.hands.values());
            let known = hands.find(|hand| hand.owner == holder.owner);
            if view.healed && known.is_some_and(|hand| matches!(hand.stage, Stage::Leaving(_))) {
                let owner = holder.owner.as_str();
                let since = *self.unwanted.entry(owner.into()).or_insert(view.at);
                let lain = view.at.saturating_sub(since);
                if lain > soon() {
                    let how = format!("{owner} is still there, {lain:?} later");
                    return Err(Violation::new("S7 (gone within one recheck)", how));
                }
            }
            if named.iter().any(|it| it.up || it.exited) && known.is_none() {
                let how = format!("{} is held, and nobody knows of it", holder.owner);
                return Err(Violation::new("S7 (no orphan)", how));
            }
        }
        Ok(())
    }

    fn at_end(&mut self, view: &View<'_>) -> Result<(), Violation> {
        if view.leaves_a_clones_record() {
            return Ok(());
        }
        // A claim of a killed life may land after everybody was served; it can be taken over.
        let left_behind = |holder: &Holder| {
            let process = holder.owner.process();
            let life = (process.host().as_str().to_owned(), process.pid());
            holder.alive || (self.exited.contains(&life) && !view.is_cloned(&holder.owner))
        };
        for key in view.keys {
            if let Some(holder) = view.store.holder(key).filter(left_behind) {
                let how = format!("at the end there is {holder:?}");
                return Err(Violation::new("S7 (no orphan)", how));
            }
        }
        let left = view
            .processes
            .iter()
            .find(|process| !process.hands.is_empty());
        if let Some(process) = left {
            let how = format!("at the end p{} has {:?}", process.index, process.hands);
            return Err(Violation::new("S7 (no orphan)", how));
        }
        Ok(())
    }
}
