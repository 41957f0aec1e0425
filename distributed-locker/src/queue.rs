//! The waiters of one key in this process: they stand in line here, and only the head of the line
//! talks to the store.

use locker_core::backend::HintStream;
use locker_core::{Key, ProcessHash};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// The lines of all keys.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    lines: Mutex<HashMap<Key, Line>>,
}

/// One line. The lock is fair: first come, first served.
type Line = Arc<tokio::sync::Mutex<Head>>;

/// What the head of a line hands to the next one.
#[derive(Default)]
pub(crate) struct Head {
    /// The subscription, and the incarnation of this process that it enrolled.
    pub(crate) hints: Option<(ProcessHash, HintStream)>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("subscribed", &self.hints.is_some())
            .finish()
    }
}

/// The place at the head of a line; the next one moves up when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    queues: &'a Queues,
    key: Key,
    head: Option<OwnedMutexGuard<Head>>,
    /// Whether others stood before.
    pub(crate) had_to_wait: bool,
}

impl Queues {
    /// Stands in line until the head is reached.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the place in the line is given up.
    pub(crate) async fn stand(&self, key: &Key) -> Turn<'_> {
        let line = Arc::clone(self.lock().entry(key.clone()).or_default());
        // From here on a drop tidies up, also while it waits.
        let mut turn = Turn {
            queues: self,
            key: key.clone(),
            head: None,
            had_to_wait: false,
        };
        let head = match Arc::clone(&line).try_lock_owned() {
            Ok(head) => head,
            Err(_) => {
                turn.had_to_wait = true;
                line.lock_owned().await
            }
        };
        turn.head = Some(head);
        turn
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// What belongs to the head of the line.
    pub(crate) fn head(&mut self) -> Option<&mut Head> {
        self.head.as_deref_mut()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut lines = self.queues.lock();
        // The last one takes the line away with it, and with the line the subscription.
        let alone = lines.get(&self.key).is_some_and(|line| {
            // One in the map, one in our guard.
            Arc::strong_count(line) <= 1 + usize::from(self.head.is_some())
        });
        let line = if alone { lines.remove(&self.key) } else { None };
        drop(lines);
        drop(self.head.take());
        drop(line);
    }
}
