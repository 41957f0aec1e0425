//! Who waits for which key, in the order in which they came.

use crate::op::{Outbox, Subscription};
use locker_core::backend::Hint;
use locker_core::{Key, ProcessHash};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub(super) struct Waiters(BTreeMap<Key, Vec<(Subscription, ProcessHash)>>);

impl Waiters {
    pub(super) fn enrol(&mut self, key: &Key, process: &ProcessHash, who: Subscription) {
        let line = self.0.entry(key.clone()).or_default();
        if line.iter().all(|(other, _)| *other != who) {
            line.push((who, process.clone()));
        }
    }

    pub(super) fn withdraw(&mut self, who: Subscription) {
        for line in self.0.values_mut() {
            line.retain(|(other, _)| *other != who);
        }
    }

    /// Who stands in the line of this key.
    pub(super) fn line(&self, key: &Key) -> Vec<Subscription> {
        let line = self.0.get(key).into_iter().flatten();
        line.map(|(who, _)| *who).collect()
    }

    /// Tells everybody in the line, with his place; the dead are forgotten and take none.
    pub(super) fn wake(
        &mut self,
        key: &Key,
        alive: impl Fn(&ProcessHash) -> bool,
        out: &mut Outbox,
    ) {
        let Some(line) = self.0.get_mut(key) else {
            return;
        };
        line.retain(|(_, process)| alive(process));
        for (place, (who, _)) in line.iter().enumerate() {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            out.hints.push((*who, Hint::Free { place }));
        }
    }

    /// The subscriptions broke and were rebuilt.
    pub(super) fn rebuilt(&mut self, out: &mut Outbox) {
        let all = self.0.values().flatten();
        out.hints.extend(all.map(|(who, _)| (*who, Hint::Rebuilt)));
    }
}
