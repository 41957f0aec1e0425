//! Sessions as crash detectors, as Postgres has them: a process that has not reported in time is
//! believed for a while longer, as long as the session of its reports keeps an advisory lock.
//!
//! A session ends when its process is killed, and for other reasons as well: a proxy resets it, the
//! server crashes, an administrator ends it. It does not end with a machine that vanishes. So it may
//! put a death off, and never brings it forward (attack 5).

use crate::rng::Rng;
use locker_core::ProcessHash;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    /// Which name the connection of each process keeps, in each of its lives.
    kept: BTreeMap<(String, u32), ProcessHash>,
    /// Until when each name is believed, since its last report.
    lapses: BTreeMap<ProcessHash, u64>,
}

impl Sessions {
    /// A report was executed: its connection keeps the lock of this name, and no other's.
    pub(super) fn keep(&mut self, process: &ProcessHash) {
        let connection = (process.host().as_str().to_owned(), process.pid());
        self.kept.insert(connection, process.clone());
    }

    /// A report was committed.
    pub(super) fn believe(&mut self, process: &ProcessHash, until: u64) {
        self.lapses.insert(process.clone(), until);
    }

    /// A process has ended in good order.
    pub(super) fn forget(&mut self, process: &ProcessHash) {
        self.lapses.remove(process);
        self.end(process);
    }

    /// Until when this process counts as alive without a report.
    pub(super) fn believed(&self, now: u64, process: &ProcessHash) -> Option<u64> {
        let lapses = self.lapses.get(process).copied();
        let kept = || self.kept.values().any(|kept| kept == process);
        lapses.filter(|until| *until > now && kept())
    }

    /// The kernel closes the connections of a process that it has ended.
    pub(super) fn end(&mut self, process: &ProcessHash) {
        self.kept.retain(|_, kept| kept != process);
    }

    /// Somebody else ends one of those that `counts`.
    pub(super) fn end_one(&mut self, rng: &mut Rng, counts: impl Fn(&ProcessHash) -> bool) -> bool {
        let counting = self.kept.values().filter(|name| counts(name));
        let names: Vec<ProcessHash> = counting.cloned().collect();
        if names.is_empty() {
            return false;
        }
        self.end(&names[rng.below(names.len())]);
        true
    }

    /// The server has crashed.
    pub(super) fn end_all(&mut self) {
        self.kept.clear();
    }
}
