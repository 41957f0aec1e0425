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
        // What is ours goes first. So of two that leave at the same time the one who looks last
        // sees that nobody is left.
        drop(self.head.take());
        let mut lines = self.queues.lock();
        // The last one takes the line away with it, and with the line the subscription.
        let empty = lines
            .get(&self.key)
            .is_some_and(|line| Arc::strong_count(line) == 1);
        let line = if empty { lines.remove(&self.key) } else { None };
        drop(lines);
        drop(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    /// L8: the head of a line leaves on one thread while the last one behind it gives up on
    /// another.
    #[test]
    fn the_last_one_to_leave_a_line_takes_it_away() {
        const ROUNDS: u32 = 10_000;
        let queues = Queues::default();
        let key = Key::new("k").unwrap();
        let step = AtomicU32::new(0);
        let mut left_behind = 0;
        let wait_for = |at: u32| {
            while step.load(Ordering::Acquire) < at {
                std::hint::spin_loop();
                if at % 4 != 3 {
                    std::thread::yield_now();
                }
            }
        };
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for round in 0..ROUNDS {
                    wait_for(round * 4 + 1);
                    let mut behind = Box::pin(queues.stand(&key));
                    assert!((&mut behind).now_or_never().is_none());
                    step.fetch_add(1, Ordering::Release);
                    wait_for(round * 4 + 3);
                    (0..round / 100 % 40).for_each(|_| std::hint::spin_loop());
                    drop(behind);
                    step.fetch_add(1, Ordering::Release);
                }
            });
            for round in 0..ROUNDS {
                let head = queues.stand(&key).now_or_never().unwrap();
                step.fetch_add(1, Ordering::Release);
                wait_for(round * 4 + 2);
                step.fetch_add(1, Ordering::Release);
                (0..round % 40).for_each(|_| std::hint::spin_loop());
                drop(head);
                wait_for(round * 4 + 4);
                left_behind += queues.lock().len();
            }
        });
        assert_eq!(left_behind, 0, "lines were left behind");
    }

    #[tokio::test]
    async fn a_place_in_a_line_is_kept_while_somebody_stands_in_it() {
        let queues = Queues::default();
        let key = Key::new("k").unwrap();
        let head = queues.stand(&key).await;
        let mut second = Box::pin(queues.stand(&key));
        assert!((&mut second).now_or_never().is_none());
        drop(head);
        let mut third = Box::pin(queues.stand(&key));
        assert!((&mut third).now_or_never().is_none(), "one at a time");
        let second = tokio::time::timeout(Duration::from_secs(1), second)
            .await
            .unwrap();
        assert!(second.had_to_wait);
        drop(third);
        drop(second);
        assert_eq!(queues.lock().len(), 0);
    }
}
