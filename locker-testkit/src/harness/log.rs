//! The events of all workers of a case, as they come in.

use super::event::Record;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The shared event log. Clones are the same log.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    records: Mutex<Vec<Record>>,
    grown: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.0
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One more event.
    pub fn push(&self, record: Record) {
        self.lock().push(record);
        self.0.grown.notify_all();
    }

    /// How many events there are.
    pub fn length(&self) -> usize {
        self.lock().len()
    }

    /// Everything so far, in the order of time.
    pub fn records(&self) -> Vec<Record> {
        let mut records = self.lock().clone();
        records.sort_by_key(|record| record.at);
        records
    }

    /// Waits for an event at this index or later that `find` finds.
    pub fn wait_for<T>(
        &self,
        from: usize,
        patience: Duration,
        mut find: impl FnMut(&Record) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + patience;
        let mut seen = from;
        let mut records = self.lock();
        loop {
            if let Some(found) = records.iter().skip(seen).find_map(&mut find) {
                return Some(found);
            }
            seen = seen.max(records.len());
            let left = end.checked_duration_since(Instant::now())?;
            let waited = self.0.grown.wait_timeout(records, left);
            records = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
