//! A store that counts its requests: L7 and "a free lock costs one round trip" are about numbers.

use super::around::{Around, Call, Method, Request, WrappedConnect};
use locker_core::backend::Side;
use locker_core::{BackendError, Connect};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the requests of every connection that is made through it. Clones count together.
///
/// ```
/// use locker_core::{Connect, ManualClock, memory::Memory};
/// use locker_testkit::wrap::{Counted, Method};
/// use std::sync::Arc;
///
/// let memory = Arc::new(Memory::new(Arc::new(ManualClock::new())));
/// let counted = Counted::new();
/// let connect: Arc<dyn Connect> = counted.around(memory);
/// // ... run what is to be counted over `connect` ...
/// assert_eq!(counted.counts().of(Method::Extend), 0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Counted {
    counts: Arc<Mutex<Counts>>,
}

/// How many requests were sent, whether or not they were answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(HashMap<Call, u64>);

impl Counts {
    /// Of this method, from every side.
    pub fn of(&self, method: Method) -> u64 {
        self.sum(|call| call.method == method)
    }

    /// Of this method, from this side.
    pub fn from(&self, side: Side, method: Method) -> u64 {
        self.sum(|call| *call == Call { side, method })
    }

    /// Of every method and side. Connections are counted as well.
    pub fn total(&self) -> u64 {
        self.sum(|_| true)
    }

    /// What was sent since an earlier count.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |call| earlier.0.get(call).copied().unwrap_or_default();
        let grown = self
            .0
            .iter()
            .map(|(call, count)| (*call, count - before(call)));
        Self(grown.filter(|(_, count)| *count > 0).collect())
    }

    fn sum(&self, which: impl Fn(&Call) -> bool) -> u64 {
        let counted = self.0.iter().filter(|(call, _)| which(call));
        counted.map(|(_, count)| count).sum()
    }
}

impl Counted {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts what goes to this store.
    pub fn around(&self, inner: Arc<dyn Connect>) -> Arc<dyn Connect> {
        Arc::new(WrappedConnect::new(inner, self.clone()))
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Around for Counted {
    async fn around<T: Send + 'static>(
        &self,
        call: Call,
        request: Request<T>,
    ) -> Result<T, BackendError> {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .entry(call)
            .or_default() += 1;
        request.await
    }
}
