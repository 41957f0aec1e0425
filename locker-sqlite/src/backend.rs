//! The contract, method by method: each is one step that the connection's task does to its end.

use crate::actor::{Boxed, Caller, Handle};
use crate::locks::BATCH;
use crate::session::Session;
use async_trait::async_trait;
use locker_core::backend::{
    Answer, Birth, Claim, Claimed, Force, Held, HintStream, KeptBy, Limits, Listing, Liveness,
    Observed, Page, Released, Renewal, Settlement, Standing, Watcher,
};
use locker_core::{Backend, BackendError, Key, OwnerHash, ProcessData, ProcessHash, StoreTime};
use std::time::Duration;

/// One connection to the embedded store.
#[derive(Debug)]
pub(crate) struct SqliteBackend {
    connection: Handle,
}

/// The caller of a step, as the task hands it in.
type Waiting<'s> = &'s mut (dyn Caller + Send);

impl SqliteBackend {
    pub(crate) fn new(connection: Handle) -> Self {
        Self { connection }
    }

    async fn call<T, F>(&self, step: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut Session, Waiting<'s>) -> Boxed<'s, Result<T, BackendError>>
            + Send
            + 'static,
    {
        self.connection.call(step).await
    }

    /// A release in any of its forms, and the wake-ups that belong to it. They leave before the
    /// answer: the process may end right after it.
    async fn release_as(&self, owner: &OwnerHash, mark: bool) -> Answer<Released> {
        let owner = owner.clone();
        self.call(move |session, caller| {
            Box::pin(async move {
                let mut step = session.write(caller).await?;
                let freed = if mark {
                    step.mark(&owner).await
                } else {
                    step.release(&owner).await
                };
                let freed = step.finish(freed).await?;
                if freed.value.awaited {
                    session.wake(std::slice::from_ref(owner.key())).await;
                }
                Ok(freed.map(|freed| freed.released))
            })
        })
        .await
    }
}

#[async_trait]
impl Backend for SqliteBackend {
    fn limits(&self) -> Limits {
        Limits {
            least_ttl: Duration::from_millis(1),
            ttl_granularity: Duration::from_nanos(1),
            batch: BATCH,
            lock_ttl_kept_by: KeptBy::Store,
            hints: true,
            wall_clock_expiry: false,
            shares_owner_clock: true,
            // One small read and one question to the kernel.
            dead_after: None,
            cheap_death_poll: Some(Duration::from_millis(25)),
        }
    }

    async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        let claim = claim.clone();
        self.call(move |session, caller| {
            Box::pin(async move {
                let mut step = session.write(caller).await?;
                let claimed = step.try_create(&claim).await;
                step.finish(claimed).await
            })
        })
        .await
    }

    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        let (claim, observed) = (claim.clone(), observed.clone());
        self.call(move |session, caller| {
            Box::pin(async move {
                let mut step = session.write(caller).await?;
                let claimed = step.take_over(&claim, &observed).await;
                step.finish(claimed).await
            })
        })
        .await
    }

    async fn extend(
        &self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        let owners = owners.to_vec();
        self.call(move |session, caller| {
            Box::pin(async move {
                let mut step = session.write(caller).await?;
                let extended = step.extend(&owners, ttl).await;
                step.finish(extended).await
            })
        })
        .await
    }

    async fn check(&self, owners: &[OwnerHash]) -> Answer<Vec<Result<Standing, BackendError>>> {
        let owners = owners.to_vec();
        self.call(move |session, _| {
            Box::pin(async move {
                let mut step = session.read().await?;
                let standings = step.standings(&owners).await?;
                Ok(step.answer(standings))
            })
        })
        .await
    }

    async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        self.release_as(owner, false).await
    }

    /// A claim that comes to its write lock later than this step reads a later clock, and is too
    /// late by itself: so `Final` is final without any further record.
    async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Answer<Settlement> {
        let reply = self.release(owner).await?;
        let passed = reply.store_time.is_some_and(|time| time > not_after);
        Ok(reply.map(|released| {
            if passed {
                Settlement::Final(released)
            } else {
                Settlement::Open(released)
            }
        }))
    }

    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        match force {
            Force::Mark => self.release_as(owner, true).await,
            Force::Now => self.release_as(owner, false).await,
        }
    }

    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        let key = key.clone();
        self.call(move |session, _| {
            Box::pin(async move {
                let mut step = session.read().await?;
                let held = step.read_lock(&key).await?;
                Ok(step.answer(held))
            })
        })
        .await
    }

    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        let process = process.clone();
        self.call(move |session, _| {
            Box::pin(async move {
                let mut step = session.read().await?;
                let liveness = step.read_process(&process).await?;
                Ok(step.answer(liveness))
            })
        })
        .await
    }

    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth> {
        let process = process.clone();
        self.call(move |session, caller| {
            Box::pin(async move { session.create_process(caller, &process, ttl).await })
        })
        .await
    }

    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal> {
        let process = process.clone();
        self.call(move |session, caller| {
            Box::pin(async move { session.renew_process(caller, &process, ttl).await })
        })
        .await
    }

    async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        let process = process.clone();
        self.call(move |session, caller| {
            Box::pin(async move { session.retire_process(caller, &process).await })
        })
        .await
    }

    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        let (prefix, page) = (prefix.to_owned(), page.clone());
        self.call(move |session, _| {
            Box::pin(async move {
                let mut step = session.read().await?;
                let listing = step.list_locks(&prefix, &page).await?;
                Ok(step.answer(listing))
            })
        })
        .await
    }

    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        let page = page.clone();
        self.call(move |session, _| {
            Box::pin(async move {
                let mut step = session.read().await?;
                let listing = step.list_processes(&page).await?;
                Ok(step.answer(listing))
            })
        })
        .await
    }

    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError> {
        let (key, watcher) = (key.clone(), watcher.clone());
        let hints = self
            .call(move |session, caller| {
                Box::pin(async move { session.watch(caller, &key, &watcher).await })
            })
            .await?;
        Ok(Box::pin(hints))
    }

    async fn sweep(&self, retention: Duration) -> Answer<u64> {
        self.call(move |session, caller| {
            Box::pin(async move { session.sweep(caller, retention).await })
        })
        .await
    }
}
