//! A store of one's own: any other store, with a switch that stops new acquisitions.
//!
//! During maintenance nothing new shall begin, while what runs goes on, is extended and released.
//! `Locker::drain` does that for one process; this does it for everybody who connects through the
//! same switch. It is an example of two things: how little a store has to do, and how to prove that
//! it does it (`tests/conformance.rs`).

use async_trait::async_trait;
use locker_core::backend::{
    Answer, Birth, Claim, Claimed, Force, Held, HintStream, Limits, Listing, Liveness, Observed,
    Page, Released, Renewal, Settlement, Side, Standing, Watcher,
};
use locker_core::time::StoreTime;
use locker_core::{
    Backend, BackendError, Connect, Effect, ErrorKind, Key, OwnerHash, ProcessData, ProcessHash,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The switch. Clones are the same switch.
#[derive(Debug, Clone, Default)]
pub struct Maintenance(Arc<AtomicBool>);

impl Maintenance {
    /// From now on nothing new begins.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// From now on everything is as usual.
    pub fn end(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Refuses a claim during maintenance. Nothing has been sent, and the error says so: the locker
    /// need not settle anything, and a waiter asks again later.
    fn admit(&self) -> Result<(), BackendError> {
        if self.0.load(Ordering::Acquire) {
            return Err(BackendError::new(
                ErrorKind::Unavailable,
                Effect::NotApplied,
                "maintenance: nothing new begins",
            ));
        }
        Ok(())
    }
}

/// Connects to another store, through the switch.
#[derive(Debug)]
pub struct WithMaintenance {
    inner: Arc<dyn Connect>,
    maintenance: Maintenance,
}

impl WithMaintenance {
    /// The store `inner`, under this switch.
    pub fn new(inner: Arc<dyn Connect>, maintenance: Maintenance) -> Self {
        Self { inner, maintenance }
    }
}

#[async_trait]
impl Connect for WithMaintenance {
    async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::new(Switched {
            inner: self.inner.connect(side).await?,
            maintenance: self.maintenance.clone(),
        }))
    }
}

/// One connection.
#[derive(Debug)]
struct Switched {
    inner: Arc<dyn Backend>,
    maintenance: Maintenance,
}

#[async_trait]
impl Backend for Switched {
    // What begins something new passes the switch.

    async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        self.maintenance.admit()?;
        self.inner.try_create(claim).await
    }

    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        self.maintenance.admit()?;
        self.inner.take_over(claim, observed).await
    }

    // Everything else does not: what runs is kept, checked, given back and settled as ever.

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn extend(
        &self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        self.inner.extend(owners, ttl).await
    }

    async fn check(&self, owners: &[OwnerHash]) -> Answer<Vec<Result<Standing, BackendError>>> {
        self.inner.check(owners).await
    }

    async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        self.inner.release(owner).await
    }

    async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Answer<Settlement> {
        self.inner.settle(owner, not_after).await
    }

    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        self.inner.force_release(owner, force).await
    }

    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        self.inner.read_lock(key).await
    }

    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        self.inner.read_process(process).await
    }

    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth> {
        self.inner.create_process(process, ttl).await
    }

    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal> {
        self.inner.renew_process(process, ttl).await
    }

    async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        self.inner.retire_process(process).await
    }

    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        self.inner.list_locks(prefix, page).await
    }

    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        self.inner.list_processes(page).await
    }

    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError> {
        self.inner.watch(key, watcher).await
    }

    async fn sweep(&self, retention: Duration) -> Answer<u64> {
        self.inner.sweep(retention).await
    }
}
