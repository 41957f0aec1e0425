//! One place that every request of a wrapped store passes, whatever its method and its answer.

use async_trait::async_trait;
use locker_core::backend::{
    Answer, Birth, Claim, Claimed, Force, Held, HintStream, Limits, Listing, Liveness, Observed,
    Page, Released, Renewal, Settlement, Side, Standing, Watcher,
};
use locker_core::{
    Backend, BackendError, Connect, Key, OwnerHash, ProcessData, ProcessHash, StoreTime,
};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A method of the contract that costs a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `Connect::connect`.
    Connect,
    /// `Backend::try_create`.
    TryCreate,
    /// `Backend::take_over`.
    TakeOver,
    /// `Backend::extend`.
    Extend,
    /// `Backend::check`.
    Check,
    /// `Backend::release`.
    Release,
    /// `Backend::settle`.
    Settle,
    /// `Backend::force_release`.
    ForceRelease,
    /// `Backend::read_lock`.
    ReadLock,
    /// `Backend::read_process`.
    ReadProcess,
    /// `Backend::create_process`.
    CreateProcess,
    /// `Backend::renew_process`.
    RenewProcess,
    /// `Backend::retire_process`.
    RetireProcess,
    /// `Backend::list_locks`.
    ListLocks,
    /// `Backend::list_processes`.
    ListProcesses,
    /// `Backend::watch`.
    Watch,
    /// `Backend::sweep`.
    Sweep,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 17] = [
        Self::Connect,
        Self::TryCreate,
        Self::TakeOver,
        Self::Extend,
        Self::Check,
        Self::Release,
        Self::Settle,
        Self::ForceRelease,
        Self::ReadLock,
        Self::ReadProcess,
        Self::CreateProcess,
        Self::RenewProcess,
        Self::RetireProcess,
        Self::ListLocks,
        Self::ListProcesses,
        Self::Watch,
        Self::Sweep,
    ];
}

/// Which request it is: of which connection, by which method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Call {
    /// Whose connection.
    pub side: Side,
    /// Which method.
    pub method: Method,
}

/// A request that has not been sent yet. It owns what it needs, so it can be sent by anybody and
/// at any time, also when its caller has gone.
pub type Request<T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + Send>>;

/// What a wrapper does around every request. It may send it, or not, or later.
pub trait Around: fmt::Debug + Clone + Send + Sync + 'static {
    /// Stands in for one request.
    fn around<T: Send + 'static>(
        &self,
        call: Call,
        request: Request<T>,
    ) -> impl Future<Output = Result<T, BackendError>> + Send;
}

/// A [`Connect`] whose connections pass their requests through an [`Around`].
#[derive(Debug)]
pub struct WrappedConnect<A> {
    inner: Arc<dyn Connect>,
    around: A,
}

impl<A: Around> WrappedConnect<A> {
    /// `around` around `inner`.
    pub fn new(inner: Arc<dyn Connect>, around: A) -> Self {
        Self { inner, around }
    }
}

#[async_trait]
impl<A: Around> Connect for WrappedConnect<A> {
    async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        let inner = Arc::clone(&self.inner);
        let method = Method::Connect;
        let backend = self
            .around
            .around(
                Call { side, method },
                Box::pin(async move { inner.connect(side).await }),
            )
            .await?;
        Ok(Arc::new(Wrapped {
            inner: backend,
            side,
            around: self.around.clone(),
        }))
    }
}

/// One connection of a [`WrappedConnect`].
#[derive(Debug)]
pub struct Wrapped<A> {
    inner: Arc<dyn Backend>,
    side: Side,
    around: A,
}

/// Passes a method through: its arguments are cloned into a request of their own.
macro_rules! pass {
    ($self:ident, $method:ident, $inner:ident($($owned:ident: $borrowed:expr),*)) => {{
        let backend = Arc::clone(&$self.inner);
        $(let $owned = $owned.to_owned();)*
        let call = Call { side: $self.side, method: Method::$method };
        let request = Box::pin(async move { backend.$inner($($borrowed),*).await });
        $self.around.around(call, request).await
    }};
}

#[async_trait]
impl<A: Around> Backend for Wrapped<A> {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn try_create(&self, claim: &Claim) -> Answer<Claimed> {
        pass!(self, TryCreate, try_create(claim: &claim))
    }

    async fn take_over(&self, claim: &Claim, observed: &Observed) -> Answer<Claimed> {
        pass!(self, TakeOver, take_over(claim: &claim, observed: &observed))
    }

    async fn extend(
        &self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        pass!(self, Extend, extend(owners: &owners, ttl: ttl))
    }

    async fn check(&self, owners: &[OwnerHash]) -> Answer<Vec<Result<Standing, BackendError>>> {
        pass!(self, Check, check(owners: &owners))
    }

    async fn release(&self, owner: &OwnerHash) -> Answer<Released> {
        pass!(self, Release, release(owner: &owner))
    }

    async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Answer<Settlement> {
        pass!(self, Settle, settle(owner: &owner, not_after: not_after))
    }

    async fn force_release(&self, owner: &OwnerHash, force: Force) -> Answer<Released> {
        pass!(self, ForceRelease, force_release(owner: &owner, force: force))
    }

    async fn read_lock(&self, key: &Key) -> Answer<Option<Held>> {
        pass!(self, ReadLock, read_lock(key: &key))
    }

    async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        pass!(self, ReadProcess, read_process(process: &process))
    }

    async fn create_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Birth> {
        pass!(self, CreateProcess, create_process(process: &process, ttl: ttl))
    }

    async fn renew_process(&self, process: &ProcessHash, ttl: Duration) -> Answer<Renewal> {
        pass!(self, RenewProcess, renew_process(process: &process, ttl: ttl))
    }

    async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        pass!(self, RetireProcess, retire_process(process: &process))
    }

    async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        pass!(self, ListLocks, list_locks(prefix: &prefix, page: &page))
    }

    async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        pass!(self, ListProcesses, list_processes(page: &page))
    }

    async fn watch(&self, key: &Key, watcher: &Watcher) -> Result<HintStream, BackendError> {
        pass!(self, Watch, watch(key: &key, watcher: &watcher))
    }

    async fn sweep(&self, retention: Duration) -> Answer<u64> {
        pass!(self, Sweep, sweep(retention: retention))
    }
}
