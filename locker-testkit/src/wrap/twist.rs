//! A store in which one method means something else. This is how the cases are proved: each broken
//! store differs from a right one in one method, and some case must reject it.

use async_trait::async_trait;
use locker_core::backend::{
    Answer, Birth, Claim, Claimed, Force, Held, HintStream, Limits, Listing, Liveness, Observed,
    Page, Released, Renewal, Settlement, Side, Standing, Watcher,
};
use locker_core::{
    Backend, BackendError, Connect, Key, OwnerHash, ProcessData, ProcessHash, StoreTime,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a twisted store does. Every method passes the request on; a twist overrides one of them.
///
/// Unlike the contract itself, this trait has default methods: "as the store does it" is right for
/// every method that a twist does not mean.
#[async_trait]
#[allow(
    missing_docs,
    reason = "the methods are those of `Backend`, with the store in front"
)]
pub trait Twist: fmt::Debug + Clone + Send + Sync + 'static {
    fn limits(&self, store: &dyn Backend) -> Limits {
        store.limits()
    }

    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        store.try_create(claim).await
    }

    async fn take_over(
        &self,
        store: &dyn Backend,
        claim: &Claim,
        observed: &Observed,
    ) -> Answer<Claimed> {
        store.take_over(claim, observed).await
    }

    async fn extend(
        &self,
        store: &dyn Backend,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        store.extend(owners, ttl).await
    }

    async fn check(
        &self,
        store: &dyn Backend,
        owners: &[OwnerHash],
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        store.check(owners).await
    }

    async fn release(&self, store: &dyn Backend, owner: &OwnerHash) -> Answer<Released> {
        store.release(owner).await
    }

    async fn settle(
        &self,
        store: &dyn Backend,
        owner: &OwnerHash,
        not_after: StoreTime,
    ) -> Answer<Settlement> {
        store.settle(owner, not_after).await
    }

    async fn force_release(
        &self,
        store: &dyn Backend,
        owner: &OwnerHash,
        force: Force,
    ) -> Answer<Released> {
        store.force_release(owner, force).await
    }

    async fn read_lock(&self, store: &dyn Backend, key: &Key) -> Answer<Option<Held>> {
        store.read_lock(key).await
    }

    async fn read_process(&self, store: &dyn Backend, process: &ProcessHash) -> Answer<Liveness> {
        store.read_process(process).await
    }

    async fn create_process(
        &self,
        store: &dyn Backend,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Birth> {
        store.create_process(process, ttl).await
    }

    async fn renew_process(
        &self,
        store: &dyn Backend,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Renewal> {
        store.renew_process(process, ttl).await
    }

    async fn retire_process(&self, store: &dyn Backend, process: &ProcessHash) -> Answer<()> {
        store.retire_process(process).await
    }

    async fn list_locks(
        &self,
        store: &dyn Backend,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        store.list_locks(prefix, page).await
    }

    async fn list_processes(
        &self,
        store: &dyn Backend,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        store.list_processes(page).await
    }

    async fn watch(
        &self,
        store: &dyn Backend,
        key: &Key,
        watcher: &Watcher,
    ) -> Result<HintStream, BackendError> {
        store.watch(key, watcher).await
    }

    async fn sweep(&self, store: &dyn Backend, retention: Duration) -> Answer<u64> {
        store.sweep(retention).await
    }
}

/// A store with a twist. It makes the connections, and each connection is one of it.
#[derive(Debug)]
pub struct Twisted<S: ?Sized, T> {
    twist: T,
    store: Arc<S>,
}

impl<T: Twist> Twisted<dyn Connect, T> {
    /// This store, with this twist.
    pub fn connect(store: Arc<dyn Connect>, twist: T) -> Arc<dyn Connect> {
        Arc::new(Self { twist, store })
    }
}

#[async_trait]
impl<T: Twist> Connect for Twisted<dyn Connect, T> {
    async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        Ok(Arc::new(Twisted {
            twist: self.twist.clone(),
            store: self.store.connect(side).await?,
        }))
    }
}

#[async_trait]
impl<T: Twist> Backend for Twisted<dyn Backend, T> {
    fn limits(&self) -> Limits {
        self.twist.limits(&*self.store)
    }

    async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        self.twist.try_create(&*self.store, claim).await
    }

    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        self.twist.take_over(&*self.store, claim, observed).await
    }

    async fn extend(
        &self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        self.twist.extend(&*self.store, owners, ttl).await
    }

    async fn check(&self, owners: &[OwnerHash]) -> Answer<Vec<Result<Standing, BackendError>>> {
        self.twist.check(&*self.store, owners).await
    }

    async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        self.twist.release(&*self.store, owner).await
    }

    async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Answer<Settlement> {
        self.twist.settle(&*self.store, owner, not_after).await
    }

    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        self.twist.force_release(&*self.store, owner, force).await
    }

    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        self.twist.read_lock(&*self.store, key).await
    }

    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        self.twist.read_process(&*self.store, process).await
    }

    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth> {
        self.twist.create_process(&*self.store, process, ttl).await
    }

    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal> {
        self.twist.renew_process(&*self.store, process, ttl).await
    }

    async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        self.twist.retire_process(&*self.store, process).await
    }

    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        self.twist.list_locks(&*self.store, prefix, page).await
    }

    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        self.twist.list_processes(&*self.store, page).await
    }

    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError> {
        self.twist.watch(&*self.store, key, watcher).await
    }

    async fn sweep(&self, retention: Duration) -> Answer<u64> {
        self.twist.sweep(&*self.store, retention).await
    }
}
