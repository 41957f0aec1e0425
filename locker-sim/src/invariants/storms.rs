//! No storm: whatever a store answers, no part of a process asks it without end. A retry waits, a
//! contradiction is not argued about, and a hint is good for one attempt.

use super::{Fact, Invariant, View, Violation};
use crate::agenda::Part;
use std::collections::BTreeMap;
use std::time::Duration;

/// The requests of one part that are remembered: so many must not fit into [`WINDOW`].
const MOST: usize = 22;
/// Four retries fit into it.
const WINDOW: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Storms(BTreeMap<(usize, u32, Part), Recent>);

/// The times of the last requests, as a ring.
#[derive(Debug)]
struct Recent {
    times: [Duration; MOST],
    next: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            times: [Duration::MAX; MOST],
            next: 0,
        }
    }
}

impl Invariant for Storms {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        for fact in view.facts {
            let Fact::Sent {
                process,
                boot,
                part,
            } = fact
            else {
                continue;
            };
            let recent = self.0.entry((*process, *boot, *part)).or_default();
            let oldest = std::mem::replace(&mut recent.times[recent.next], view.at);
            recent.next = (recent.next + 1) % MOST;
            if oldest != Duration::MAX && view.at.saturating_sub(oldest) < WINDOW {
                let how = format!("p{process} sent {MOST} requests for {part:?} in {WINDOW:?}");
                return Err(Violation::new("no retry storm", how));
            }
        }
        Ok(())
    }
}
