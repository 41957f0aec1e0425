//! The contract, method by method.

use crate::connection::Source;
use crate::hints::Hub;
use crate::script::{BATCH, CLUSTER_BATCH};
use crate::session::Session;
use async_trait::async_trait;
use locker_core::backend::{
    Answer, Birth, Claim, Claimed, Force, Held, HintStream, KeptBy, Limits, Listing, Liveness,
    Observed, Page, Released, Renewal, Reply, Settlement, Standing, Watcher,
};
use locker_core::{Backend, BackendError, Key, OwnerHash, ProcessData, ProcessHash, StoreTime};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;

/// One connection to the store.
#[derive(Debug)]
pub(crate) struct RedisBackend {
    session: Session,
    /// Where a subscription is opened; nowhere on a cluster that has no sharded channels.
    source: Option<Source>,
    /// Where hints come in, from the first watch on.
    hub: OnceLock<Arc<Hub>>,
    /// The runtime on which the connection was opened.
    runtime: Handle,
}

impl RedisBackend {
    /// A connection of the current runtime.
    pub(crate) fn new(session: Session, source: Option<Source>) -> Self {
        Self {
            session,
            source,
            hub: OnceLock::new(),
            runtime: Handle::current(),
        }
    }

    fn hub(&self, source: &Source) -> Result<&Arc<Hub>, BackendError> {
        if let Some(hub) = self.hub.get() {
            return Ok(hub);
        }
        let Session { names, shared, .. } = &self.session;
        let hub = shared.hub(source, names, &self.runtime)?;
        Ok(self.hub.get_or_init(|| hub))
    }
}

#[async_trait]
impl Backend for RedisBackend {
    fn limits(&self) -> Limits {
        Limits {
            least_ttl: Duration::from_millis(1),
            ttl_granularity: Duration::from_micros(1),
            batch: if self.session.connection.is_cluster() {
                CLUSTER_BATCH
            } else {
                BATCH
            },
            lock_ttl_kept_by: KeptBy::Store,
            hints: self.source.is_some(),
            wall_clock_expiry: true,
            shares_owner_clock: false,
            dead_after: None,
            cheap_death_poll: None,
        }
    }

    async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        self.session.try_create(claim).await
    }

    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        self.session.take_over(claim, observed).await
    }

    async fn extend(
        &self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        self.session.extend(owners, ttl).await
    }

    async fn check(&self, owners: &[OwnerHash]) -> Answer<Vec<Result<Standing, BackendError>>> {
        self.session.check(owners).await
    }

    async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        self.session.release(owner).await
    }

    async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Answer<Settlement> {
        self.session.settle(owner, not_after).await
    }

    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        self.session.force_release(owner, force).await
    }

    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        self.session.read_lock(key).await
    }

    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        self.session.read_process(process).await
    }

    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth> {
        self.session.create_process(process, ttl).await
    }

    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal> {
        self.session.renew_process(process, ttl).await
    }

    async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        self.session.retire_process(process).await
    }

    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        self.session.list_locks(prefix, page).await
    }

    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        self.session.list_processes(page).await
    }

    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError> {
        match &self.source {
            Some(source) => Ok(Box::pin(self.hub(source)?.watch(key, watcher).await?)),
            // Nothing ever comes, and whoever waits polls.
            None => Ok(Box::pin(futures_util::stream::pending())),
        }
    }

    /// Keys bear their own expiry: the server collects a lock when the clock has passed its token
    /// by the retention, and a process one hour after its death. Nothing is left to be swept.
    async fn sweep(&self, _retention: Duration) -> Answer<u64> {
        Ok(Reply {
            value: 0,
            store_time: None,
        })
    }
}
