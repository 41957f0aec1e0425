//! A process of a case: one `Connect` value, one connection, one incarnation, and the requests of
//! the contract with their infrastructure errors turned into failures.

use super::expect::granted;
use locker_core::backend::{
    Answer, Birth, Claim, Claimed, Force, Held, HintStream, Limits, Listing, Liveness, Observed,
    Page, Released, Renewal, Settlement, Side, Standing, Watcher,
};
use locker_core::{
    Backend, BackendError, Connect, Key, OwnerHash, ProcessData, ProcessHash, StoreTime, Token,
    Trace,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A TTL that no case waits for.
pub const LONG: Duration = Duration::from_secs(120);

/// What an acquisition got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Under which owner hash.
    pub owner: OwnerHash,
    /// The fencing token.
    pub token: Token,
}

/// One process. Clones are the same process.
///
/// Its connections close with the last clone, and some stores take that for its death: a case keeps
/// every process whose life it counts on.
#[derive(Debug, Clone)]
pub struct Process(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    hash: ProcessHash,
    connect: Arc<dyn Connect>,
    backend: Arc<dyn Backend>,
    acquisitions: AtomicU64,
    /// The largest store time of any answer, in microseconds; 0 before the first.
    store_time: AtomicU64,
}

impl Process {
    /// Connects. The process is not born by that.
    pub(super) async fn open(connect: Arc<dyn Connect>, hash: ProcessHash) -> Self {
        let backend = connect
            .connect(Side::Caller)
            .await
            .expect("a store that the fixture has opened takes connections");
        let process = Self(Arc::new(Parts {
            hash,
            connect,
            backend,
            acquisitions: AtomicU64::new(0),
            store_time: AtomicU64::new(0),
        }));
        // Every answer tells the store's time, and claims need it.
        process.liveness().await;
        process
    }

    /// Another connection of this process.
    pub async fn connect(&self, side: Side) -> Arc<dyn Backend> {
        self.0
            .connect
            .connect(side)
            .await
            .expect("a process may open a connection for each of its sides")
    }

    /// The same process, speaking through another of its connections.
    pub async fn through(&self, side: Side) -> Self {
        Self(Arc::new(Parts {
            hash: self.0.hash.clone(),
            connect: Arc::clone(&self.0.connect),
            backend: self.connect(side).await,
            // Far from the numbers of the original: owner hashes are never used twice.
            acquisitions: AtomicU64::new(1_000_000 * (1 + side as u64)),
            store_time: AtomicU64::new(self.0.store_time.load(Ordering::Relaxed)),
        }))
    }

    /// Its identity.
    pub fn hash(&self) -> &ProcessHash {
        &self.0.hash
    }

    /// Its connection, for requests whose errors are what the case is about.
    pub fn backend(&self) -> &dyn Backend {
        &*self.0.backend
    }

    /// What the store can keep.
    pub fn limits(&self) -> Limits {
        self.backend().limits()
    }

    /// The identity of its next acquisition.
    pub fn owner(&self, key: &Key) -> OwnerHash {
        self.owner_with(key, None)
    }

    /// The same with a trace.
    pub fn owner_with(&self, key: &Key, trace: Option<&Trace>) -> OwnerHash {
        let seq = self.0.acquisitions.fetch_add(1, Ordering::Relaxed);
        OwnerHash::new(key, &self.0.hash, seq, trace)
    }

    /// A claim with time enough to arrive.
    pub fn claim(&self, owner: &OwnerHash, ttl: Duration) -> Claim {
        Claim {
            owner: owner.clone(),
            ttl,
            not_after: self.later(LONG),
        }
    }

    /// A claim that arrives too late: the store's clock has passed its `not_after`.
    pub fn late_claim(&self, owner: &OwnerHash) -> Claim {
        Claim {
            owner: owner.clone(),
            ttl: LONG,
            not_after: self.passed(),
        }
    }

    /// A store time that has passed, by the answers so far.
    pub fn passed(&self) -> StoreTime {
        StoreTime::from_micros(self.seen().saturating_sub(1))
    }

    /// A store time that is this far away.
    pub fn later(&self, away: Duration) -> StoreTime {
        match self.seen() {
            // A store without a clock does not look at it.
            0 => StoreTime::from_micros(u64::MAX),
            seen => StoreTime::from_micros(seen) + away,
        }
    }

    fn seen(&self) -> u64 {
        self.0.store_time.load(Ordering::Relaxed)
    }

    fn answered<T>(&self, answer: Answer<T>, request: &str) -> T {
        match answer {
            Ok(reply) => {
                if let Some(time) = reply.store_time {
                    let time = time.as_micros();
                    self.0.store_time.fetch_max(time, Ordering::Relaxed);
                }
                reply.value
            }
            Err(error) => panic!("a healthy store should answer {request}, but fails: {error:?}"),
        }
    }

    fn members<T>(
        &self,
        answer: Answer<Vec<Result<T, BackendError>>>,
        asked: usize,
        request: &str,
    ) -> Vec<T> {
        let members = self.answered(answer, request);
        assert_eq!(
            members.len(),
            asked,
            "{request} answers every member of its batch, in order"
        );
        members
            .into_iter()
            .map(|member| match member {
                Ok(member) => member,
                Err(error) => {
                    panic!("a healthy store should answer {request} per key, but: {error:?}")
                }
            })
            .collect()
    }

    /// Is born, for this long.
    pub async fn be_born(&self, ttl: Duration) {
        let birth = self.create_process(ttl).await;
        assert!(
            matches!(birth, Birth::Created { .. }),
            "a process of a new name should be born, but the store answers {birth:?}"
        );
    }

    /// `create_process` under its own name.
    pub async fn create_process(&self, ttl: Duration) -> Birth {
        let answer = self.backend().create_process(self.hash(), ttl).await;
        self.answered(answer, "create_process")
    }

    /// `renew_process` under its own name.
    pub async fn renew(&self, ttl: Duration) -> Renewal {
        let answer = self.backend().renew_process(self.hash(), ttl).await;
        self.answered(answer, "renew_process")
    }

    /// `retire_process` under its own name.
    pub async fn retire(&self) {
        let answer = self.backend().retire_process(self.hash()).await;
        self.answered(answer, "retire_process");
    }

    /// `read_process` of its own name.
    pub async fn liveness(&self) -> Liveness {
        self.read_process(self.hash()).await
    }

    /// `read_process`.
    pub async fn read_process(&self, process: &ProcessHash) -> Liveness {
        let answer = self.backend().read_process(process).await;
        self.answered(answer, "read_process")
    }

    /// `try_create`.
    pub async fn try_create(&self, claim: &Claim) -> Claimed {
        let answer = self.backend().try_create(claim).await;
        self.answered(answer, "try_create")
    }

    /// `try_create` for long.
    pub async fn create(&self, owner: &OwnerHash) -> Claimed {
        self.try_create(&self.claim(owner, LONG)).await
    }

    /// Acquires a free lock for long.
    pub async fn acquire(&self, key: &Key) -> Grant {
        self.acquire_for(key, LONG).await
    }

    /// Acquires a free lock for this long.
    pub async fn acquire_for(&self, key: &Key, ttl: Duration) -> Grant {
        self.acquire_as(self.owner(key), ttl).await
    }

    /// Acquires a free lock under this owner hash.
    pub async fn acquire_as(&self, owner: OwnerHash, ttl: Duration) -> Grant {
        let claimed = self.try_create(&self.claim(&owner, ttl)).await;
        let token = granted(claimed, "the lock is free");
        Grant { owner, token }
    }

    /// `take_over`.
    pub async fn take_over(&self, claim: &Claim, observed: &Observed) -> Claimed {
        let answer = self.backend().take_over(claim, observed).await;
        self.answered(answer, "take_over")
    }

    /// `take_over` for long.
    pub async fn rob(&self, owner: &OwnerHash, observed: &Observed) -> Claimed {
        self.take_over(&self.claim(owner, LONG), observed).await
    }

    /// `extend` of one lock.
    pub async fn extend(&self, owner: &OwnerHash, ttl: Duration) -> Standing {
        self.extend_all(std::slice::from_ref(owner), ttl)
            .await
            .remove(0)
    }

    /// `extend`.
    pub async fn extend_all(&self, owners: &[OwnerHash], ttl: Duration) -> Vec<Standing> {
        let answer = self.backend().extend(owners, ttl).await;
        self.members(answer, owners.len(), "extend")
    }

    /// `check` of one lock.
    pub async fn check(&self, owner: &OwnerHash) -> Standing {
        self.check_all(std::slice::from_ref(owner)).await.remove(0)
    }

    /// `check`.
    pub async fn check_all(&self, owners: &[OwnerHash]) -> Vec<Standing> {
        let answer = self.backend().check(owners).await;
        self.members(answer, owners.len(), "check")
    }

    /// `release`.
    pub async fn release(&self, owner: &OwnerHash) -> Released {
        let answer = self.backend().release(owner).await;
        self.answered(answer, "release")
    }

    /// `settle`.
    pub async fn settle(&self, owner: &OwnerHash, not_after: StoreTime) -> Settlement {
        let answer = self.backend().settle(owner, not_after).await;
        self.answered(answer, "settle")
    }

    /// `force_release`.
    pub async fn force(&self, owner: &OwnerHash, force: Force) -> Released {
        let answer = self.backend().force_release(owner, force).await;
        self.answered(answer, "force_release")
    }

    /// `read_lock`.
    pub async fn read(&self, key: &Key) -> Option<Held> {
        let answer = self.backend().read_lock(key).await;
        self.answered(answer, "read_lock")
    }

    /// `read_lock` of a lock that must be held.
    pub async fn observe(&self, key: &Key) -> Held {
        self.read(key)
            .await
            .unwrap_or_else(|| panic!("the lock {key:?} should be held, but read_lock finds none"))
    }

    /// One page of `list_locks`.
    pub async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Listing<Result<Held, BackendError>> {
        let answer = self.backend().list_locks(prefix, page).await;
        self.answered(answer, "list_locks")
    }

    /// One page of `list_processes`.
    pub async fn list_processes(&self, page: &Page) -> Listing<Result<ProcessData, BackendError>> {
        let answer = self.backend().list_processes(page).await;
        self.answered(answer, "list_processes")
    }

    /// `watch` as a waiter.
    pub async fn wait_for(&self, key: &Key) -> HintStream {
        self.watch(key, &Watcher::Waiter(self.hash().clone())).await
    }

    /// `watch`.
    pub async fn watch(&self, key: &Key, watcher: &Watcher) -> HintStream {
        match self.backend().watch(key, watcher).await {
            Ok(hints) => hints,
            Err(error) => panic!("a healthy store should confirm a watch, but fails: {error:?}"),
        }
    }

    /// `sweep`.
    pub async fn sweep(&self, retention: Duration) -> u64 {
        let answer = self.backend().sweep(retention).await;
        self.answered(answer, "sweep")
    }
}
