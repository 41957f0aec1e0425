//! Looks at every grant of a soak: tokens of a key grow, and no two guards of it are valid at once.

use distributed_locker::{BootClock, Clock, Instant, LockGuard, Token};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is known about the last grant of a key.
#[derive(Debug)]
struct Seen {
    token: Token,
    /// Until when its guard called itself valid; in the past once it was given back.
    valid_until: Instant,
}

/// Looks at every grant.
#[derive(Debug, Default)]
pub struct Witness {
    keys: Mutex<HashMap<String, Seen>>,
    violations: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Witness {
    /// Notes a grant, before anything is done under it.
    pub fn granted(&self, guard: &LockGuard) {
        let now = BootClock::new().now();
        // A guard that is lost already grants nothing.
        let Some(valid_until) = guard.valid_until() else {
            return;
        };
        let token = guard.token();
        let seen = Seen { token, valid_until };
        let before = lock(&self.keys).insert(guard.key().to_string(), seen);
        let Some(before) = before else { return };
        if before.token >= token {
            let text = format!("S2: {} got {token} after {}", guard.key(), before.token);
            lock(&self.violations).push(text);
        }
        if before.valid_until > now {
            let text = format!("S1: {} was granted while a guard is valid", guard.key());
            lock(&self.violations).push(text);
        }
    }

    /// Notes that a guard is about to be given back.
    pub fn given_back(&self, guard: &LockGuard) {
        if let Some(seen) = lock(&self.keys).get_mut(&guard.key().to_string())
            && seen.token == guard.token()
        {
            seen.valid_until = Instant::ZERO;
        }
    }

    /// What went wrong.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distributed_locker::{AcquireOptions, Locker, memory};

    async fn grant(locker: &Locker) -> LockGuard {
        let acquired = locker.acquire("k", AcquireOptions::new()).await;
        acquired.unwrap().guard().expect("a store of its own")
    }

    #[tokio::test]
    async fn two_valid_guards_and_a_token_again_are_seen() {
        let witness = Witness::default();
        let one = Locker::builder(memory()).start().await.unwrap();
        let first = grant(&one).await;
        witness.granted(&first);
        witness.given_back(&first);
        assert_eq!(witness.violations(), Vec::<String>::new());
        // The same grant once more: its token does not grow.
        witness.granted(&first);
        assert_eq!(witness.violations().len(), 1);
        // A grant of another store, while the first is valid.
        let other = Locker::builder(memory()).start().await.unwrap();
        witness.granted(&grant(&other).await);
        assert_eq!(witness.violations().len(), 2);
    }
}
