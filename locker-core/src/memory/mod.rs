//! The store of unit tests and examples: a mutex and a clock that can be advanced.
//!
//! It fulfils the whole contract, within one operating-system process. Several lockers over clones
//! of one [`Memory`] behave like several processes over one server. Tokens keep S2 for the life of
//! the value; nothing survives it.
//!
//! Every method is one critical section, so an attempt whose future was dropped has either happened
//! or will never happen. `settle` honours `not_after` all the same: a test may hold a request back
//! and deliver it later.

mod state;
mod watchers;

use crate::backend::{
    Answer, Backend, BackendError, Birth, Claim, Claimed, Connect, Force, Held, HintStream, KeptBy,
    Limits, Listing, Liveness, Observed, Page, Released, Renewal, Reply, Settlement, Side,
    Standing, Watcher,
};
use crate::identity::{Key, OwnerHash, ProcessHash};
use crate::record::ProcessData;
use crate::time::{Clock, StoreTime};
use async_trait::async_trait;
use state::{Now, State};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use watchers::Hints;

/// A store in memory. Clones share their content.
///
/// ```
/// # use locker_core::{Backend, Host, Key, ManualClock, OwnerHash, ProcessHash, StoreTime};
/// # use locker_core::backend::{Claim, Claimed};
/// # use locker_core::memory::Memory;
/// # use std::{sync::Arc, time::Duration};
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// #     match std::pin::pin!(future).poll(&mut context) {
/// #         std::task::Poll::Ready(output) => output,
/// #         std::task::Poll::Pending => unreachable!("the memory store never waits"),
/// #     }
/// # }
/// let store = Memory::new(Arc::new(ManualClock::new()));
/// let process = ProcessHash::new(&Host::new("web-1")?, 4711, 99);
/// block_on(store.create_process(&process, Duration::from_secs(10)))?;
/// let claim = Claim {
///     owner: OwnerHash::new(&Key::new("nightly")?, &process, 1, None),
///     ttl: Duration::from_secs(300),
///     not_after: StoreTime::from_micros(u64::MAX),
/// };
/// let answer = block_on(store.try_create(&claim))?;
/// assert!(matches!(answer.value, Claimed::Granted(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

/// What is in it lies behind a lock, which must not be held while somebody's writer stands still.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In a forked child it may be kept for ever.
        let shown = match self.state.try_lock() {
            Ok(state) => format!("{state:?}"),
            Err(_) => "<locked>".to_owned(),
        };
        f.debug_struct("Memory")
            .field("state", &format_args!("{shown}"))
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty store that lives by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Arc::default(),
            clock,
        }
    }

    fn step<T>(&self, step: impl FnOnce(&mut State, Now) -> T) -> Reply<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The clock is read under the lock: no step can be judged by a time before its own.
        let now = Now {
            instant: self.clock.now(),
            wall: self.clock.wall(),
        };
        let value = step(&mut state, now);
        Reply::at(store_time(now), value)
    }
}

fn store_time(now: Now) -> StoreTime {
    StoreTime::from_micros(now.instant.as_nanos() / 1000)
}

#[async_trait]
impl Connect for Memory {
    async fn connect(&self, _side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Backend for Memory {
    fn limits(&self) -> Limits {
        Limits {
            least_ttl: Duration::from_millis(1),
            ttl_granularity: Duration::from_nanos(1),
            batch: 64,
            lock_ttl_kept_by: KeptBy::Store,
            hints: true,
            wall_clock_expiry: false,
            shares_owner_clock: true,
            dead_after: None,
            cheap_death_poll: None,
        }
    }

    async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        Ok(self.step(|state, now| {
            if store_time(now) > claim.not_after {
                return Claimed::TooLate;
            }
            state.create(now, &claim.owner, claim.ttl)
        }))
    }

    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        Ok(self.step(|state, now| {
            if store_time(now) > claim.not_after {
                return Claimed::TooLate;
            }
            state.take_over(now, &claim.owner, observed, claim.ttl)
        }))
    }

    async fn extend(
        &self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        Ok(self.step(|state, now| {
            owners
                .iter()
                .map(|owner| Ok(state.extend(now, owner, ttl)))
                .collect()
        }))
    }

    async fn check(&self, owners: &[OwnerHash]) -> Answer<Vec<Result<Standing, BackendError>>> {
        Ok(self.step(|state, now| {
            owners
                .iter()
                .map(|owner| Ok(state.standing(now, owner)))
                .collect()
        }))
    }

    async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        Ok(self.step(|state, now| state.release(now, owner)))
    }

    async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Answer<Settlement> {
        Ok(self.step(|state, now| {
            let released = state.release(now, owner);
            if store_time(now) > not_after {
                Settlement::Final(released)
            } else {
                Settlement::Open(released)
            }
        }))
    }

    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        Ok(self.step(|state, now| match force {
            Force::Mark => state.mark(now, owner),
            Force::Now => state.release(now, owner),
        }))
    }

    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        Ok(self.step(|state, now| state.held(now, key)))
    }

    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        Ok(self.step(|state, now| state.liveness(now, process)))
    }

    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth> {
        Ok(self.step(|state, now| state.create_process(now, process, ttl)))
    }

    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal> {
        Ok(self.step(|state, now| state.renew_process(now, process, ttl)))
    }

    async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        Ok(self.step(|state, now| state.retire_process(now, process)))
    }

    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        Ok(self.step(|state, now| state.list_locks(now, prefix, page)))
    }

    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        Ok(self.step(|state, now| state.list_processes(now, page)))
    }

    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError> {
        Ok(Box::pin(Hints::enrol(&self.state, key, watcher)))
    }

    async fn sweep(&self, retention: Duration) -> Answer<u64> {
        Ok(self.step(|state, now| state.sweep(now, retention)))
    }
}
