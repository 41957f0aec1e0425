//! Which keys each process of this locker holds, so that the retirement of a process wakes the
//! waiters of its locks: one write has freed them all, and nothing at the server knows which.
//!
//! It is a help for hints and nothing else: what is missing here costs a waiter its poll.

use locker_core::{Key, OwnerHash, ProcessHash};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many keys are remembered. Beyond that, waiters of a retired process poll.
const MOST: usize = 65_536;

#[derive(Debug, Default)]
pub(crate) struct Grants(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    keys: HashMap<ProcessHash, HashSet<Key>>,
    count: usize,
}

impl Grants {
    /// The owner was granted its lock.
    pub(crate) fn granted(&self, owner: &OwnerHash) {
        let mut held = self.lock();
        if held.count < MOST {
            let keys = held.keys.entry(owner.process().clone()).or_default();
            if keys.insert(owner.key().clone()) {
                held.count += 1;
            }
        }
    }

    /// The lock is not that process's any more, whoever said so.
    pub(crate) fn gone(&self, owner: &OwnerHash) {
        let mut held = self.lock();
        let Some(keys) = held.keys.get_mut(owner.process()) else {
            return;
        };
        let removed = keys.remove(owner.key());
        if keys.is_empty() {
            held.keys.remove(owner.process());
        }
        if removed {
            held.count -= 1;
        }
    }

    /// Takes everything that the process holds.
    pub(crate) fn take(&self, process: &ProcessHash) -> Vec<Key> {
        let mut held = self.lock();
        let keys = held.keys.remove(process).unwrap_or_default();
        held.count -= keys.len();
        keys.into_iter().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use locker_core::Host;

    #[test]
    fn what_was_granted_and_not_released_is_taken_once() {
        let process = ProcessHash::new(&Host::new("h").unwrap(), 1, 1);
        let owner = |key: &str| OwnerHash::new(&Key::new(key).unwrap(), &process, 1, None);
        let grants = Grants::default();
        for key in ["a", "b", "b", "c"] {
            grants.granted(&owner(key));
        }
        grants.gone(&owner("a"));
        grants.gone(&owner("a"));
        let mut taken = grants.take(&process);
        taken.sort();
        assert_eq!(taken, [Key::new("b").unwrap(), Key::new("c").unwrap()]);
        assert!(grants.take(&process).is_empty());
        assert_eq!(grants.lock().count, 0);
    }
}
