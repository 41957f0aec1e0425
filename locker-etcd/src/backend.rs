//! The contract, method by method: each is one or two round trips on the connection.

use crate::enrolment;
use crate::gather::{self, Gathering, Member};
use crate::locks::Terms;
use crate::session::{BATCH, Session};
use crate::subscription::Subscription;
use async_trait::async_trait;
use locker_core::backend::{
    Answer, Birth, Claim, Claimed, Force, Held, HintStream, KeptBy, Limits, Listing, Liveness,
    Observed, Page, Released, Renewal, Reply, Settlement, Standing, Watcher,
};
use locker_core::{Backend, BackendError, Key, OwnerHash, ProcessData, ProcessHash, StoreTime};
use std::sync::Arc;
use std::time::Duration;

/// One connection to etcd.
#[derive(Debug)]
pub(crate) struct EtcdBackend {
    session: Arc<Session>,
    /// Where what is asked for at the same time is gathered.
    gathering: Gathering,
    subscription: Subscription,
}

impl EtcdBackend {
    pub(crate) fn new(session: Session) -> Self {
        let subscription = Subscription::start(&session.connection, &session.shared);
        let session = Arc::new(session);
        Self {
            gathering: gather::over(&session),
            session,
            subscription,
        }
    }

    /// A claim under the terms that are known. One that was refused, and so did nothing, only
    /// because the base of the tokens was raised meanwhile, is made again under the new base. It
    /// compares the very generation that the first one did: whoever has settled its owner in
    /// between has refused both.
    async fn claim(&self, owner: &OwnerHash, observed: Option<&Observed>) -> Answer<Claimed> {
        let Some(terms) = self.session.terms(owner.process()).await? else {
            return Ok(timeless(Claimed::OwnerDead));
        };
        if self.session.shared.is_settled(owner) {
            return Ok(timeless(Claimed::TooLate));
        }
        let mut claimed = self.claim_under(owner, observed, terms).await?;
        if claimed == Claimed::TooLate
            && let Some(raised) = self.session.raised_since(owner.process(), terms)
        {
            claimed = self.claim_under(owner, observed, raised).await?;
        }
        Ok(timeless(claimed))
    }

    async fn claim_under(
        &self,
        owner: &OwnerHash,
        observed: Option<&Observed>,
        terms: Terms,
    ) -> Result<Claimed, BackendError> {
        let session = &*self.session;
        let member = match observed.cloned() {
            None => Member::Create {
                owner: owner.clone(),
                terms,
            },
            Some(observed) => Member::TakeOver {
                owner: owner.clone(),
                observed,
                terms,
            },
        };
        let done = self.gathering.ask(member).await?;
        match observed {
            None => session.created(owner, terms, &done),
            Some(observed) => session.took_over(owner, observed, terms, &done),
        }
    }

    async fn release_one(&self, owner: &OwnerHash) -> Result<Released, BackendError> {
        let member = Member::Release {
            owner: owner.clone(),
        };
        let done = self.gathering.ask(member).await?;
        self.session.released(owner, &done)
    }
}

/// What the tasks of the gate still hold must not keep the connection open.
impl Drop for EtcdBackend {
    fn drop(&mut self) {
        self.session.connection.close();
    }
}

/// An answer of a store that shows no time.
fn timeless<T>(value: T) -> Reply<T> {
    Reply {
        value,
        store_time: None,
    }
}

#[async_trait]
impl Backend for EtcdBackend {
    fn limits(&self) -> Limits {
        Limits {
            // What a server grants at least, as it is configured by default: one and a half election
            // time-outs, rounded up. One that grants more is believed; it only frees later.
            least_ttl: Duration::from_secs(2),
            ttl_granularity: Duration::from_secs(1),
            batch: BATCH,
            lock_ttl_kept_by: KeptBy::Reporter,
            hints: true,
            wall_clock_expiry: false,
            shares_owner_clock: false,
            dead_after: None,
            cheap_death_poll: None,
        }
    }

    async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        self.claim(&claim.owner, None).await
    }

    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        self.claim(&claim.owner, Some(observed)).await
    }

    /// The TTL is that of the process's lease, which the reports keep alive: there is nothing to
    /// extend, and only to look.
    async fn extend(
        &self,
        owners: &[OwnerHash],
        _ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        self.check(owners).await
    }

    async fn check(&self, owners: &[OwnerHash]) -> Answer<Vec<Result<Standing, BackendError>>> {
        let mut standings = Vec::with_capacity(owners.len());
        for chunk in owners.chunks(BATCH) {
            standings.extend(self.session.standings(chunk).await?);
        }
        Ok(timeless(standings))
    }

    async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        self.release_one(owner).await.map(timeless)
    }

    async fn settle(&self, owner: &OwnerHash, _not_after: StoreTime) -> Answer<Settlement> {
        self.session.settle(owner).await.map(timeless)
    }

    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        let released = match force {
            Force::Mark => self.session.mark(owner).await?,
            Force::Now => self.release_one(owner).await?,
        };
        Ok(timeless(released))
    }

    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        self.session.read_lock(key).await.map(timeless)
    }

    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        self.session.read_process(process).await.map(timeless)
    }

    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth> {
        self.session
            .create_process(process, ttl)
            .await
            .map(timeless)
    }

    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal> {
        self.session.renew_process(process, ttl).await.map(timeless)
    }

    async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        self.session.retire_process(process).await.map(timeless)
    }

    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        self.session.list_locks(prefix, page).await.map(timeless)
    }

    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        self.session.list_processes(page).await.map(timeless)
    }

    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError> {
        enrolment::watch(&self.session, &self.subscription, key, watcher).await
    }

    /// Nothing outlives its lease here, and what was forgotten needs no sweeping.
    async fn sweep(&self, _retention: Duration) -> Answer<u64> {
        Ok(timeless(0))
    }
}
