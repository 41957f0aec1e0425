//! One confirmed incarnation of this process, and who depends on it.

use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};
use locker_core::deadline::Deadline;
use locker_core::{Instant, ProcessHash};
use tokio::sync::Notify;

/// An incarnation whose birth the store has confirmed.
#[derive(Debug)]
pub(crate) struct Incarnation {
    pub(crate) process: ProcessHash,
    pub(crate) deadline: Arc<Deadline>,
    tenants: AtomicUsize,
    /// Rung when the last tenant leaves.
    pub(crate) empty: Notify,
}

impl Incarnation {
    pub(crate) fn new(process: ProcessHash, deadline: Arc<Deadline>) -> Self {
        Self {
            process,
            deadline,
            tenants: AtomicUsize::new(0),
            empty: Notify::new(),
        }
    }

    /// Whether it may be the ground of a new grant at `now`.
    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        self.deadline.is_valid(now)
    }

    /// Waits until no lock and no attempt of this incarnation is left.
    pub(crate) async fn wait_empty(&self) {
        loop {
            let rung = self.empty.notified();
            if self.is_vacant() {
                return;
            }
            rung.await;
        }
    }

    /// Whether no lock and no attempt of this incarnation is left.
    pub(crate) fn is_vacant(&self) -> bool {
        self.tenants.load(Ordering::Acquire) == 0
    }
}

/// What keeps an incarnation's record from being retired: an attempt, a held lock, or a release
/// that is not confirmed yet.
#[derive(Debug)]
pub(crate) struct Tenancy(Arc<Incarnation>);

impl Tenancy {
    pub(crate) fn new(incarnation: Arc<Incarnation>) -> Self {
        incarnation.tenants.fetch_add(1, Ordering::AcqRel);
        Self(incarnation)
    }

    /// Whether the incarnation has ended, for ever.
    pub(crate) fn has_ended(&self, now: Instant) -> bool {
        !self.0.is_alive(now)
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        if self.0.tenants.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.empty.notify_waiters();
            self.0.empty.notify_one();
        }
    }
}
