//! Where a driver could go wrong: the decisions that the machines leave to whoever runs them.
//!
//! [`Right`] decides as the shipped driver does. A mutant overrides one decision; it lives in the
//! simulation only, and the shipped code has no switch for it.

use locker_core::{Instant, StoreTime};
use std::fmt;

/// The decisions of a driver.
pub trait Conduct: fmt::Debug + Send + Sync {
    /// From when the TTL of an acknowledged write counts.
    fn counts_from(&self, sent: Instant, answered: Instant) -> Instant {
        let _ = answered;
        sent
    }

    /// What is remembered of attempts of unknown outcome.
    fn remembers(&self, unsettled: Option<StoreTime>) -> Option<StoreTime> {
        unsettled
    }

    /// Whether a report that is acknowledged after the end of its incarnation revives it.
    fn revives(&self) -> bool {
        false
    }
}

/// The conduct of the shipped driver.
#[derive(Debug)]
pub struct Right;

impl Conduct for Right {}
