//! Processes that the store has called dead. That is final, so it is asked only once: a take-over on
//! a cluster, where each question is a request, needs one less.

use locker_core::ProcessHash;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many are remembered: those whose locks are being taken over now.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Dead(Mutex<VecDeque<ProcessHash>>);

impl Dead {
    pub(crate) fn note(&self, process: &ProcessHash) {
        let mut dead = self.lock();
        if dead.contains(process) {
            return;
        }
        if dead.len() == MOST {
            dead.pop_front();
        }
        dead.push_back(process.clone());
    }

    pub(crate) fn knows(&self, process: &ProcessHash) -> bool {
        self.lock().contains(process)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<ProcessHash>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use locker_core::Host;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let process = |nonce| ProcessHash::new(&Host::new("h").unwrap(), 1, nonce);
        let dead = Dead::default();
        for nonce in 0..=MOST as u128 {
            dead.note(&process(nonce));
            dead.note(&process(nonce));
        }
        assert!(!dead.knows(&process(0)));
        assert!(dead.knows(&process(1)));
        assert!(dead.knows(&process(MOST as u128)));
    }
}
