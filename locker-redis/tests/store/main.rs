//! What only this store can be asked: its servers, its keys and its channels.
// Tests may unwrap.
#![allow(clippy::unwrap_used)]

mod broken;
mod crowd;
mod crowds;
mod demoted;
mod deployments;
mod distant;
mod foreign;
mod hints;
mod listing;
mod memory_full;
mod moving;
mod refusing;
mod repeats;
mod replaced;
mod requests;
mod scripted;
mod stalled;

use distributed_locker::{AcquireOptions, Acquired, LockGuard, Locker, Wait};
use locker_core::backend::{Claim, Claimed, HintStream, Side, Watcher};
use locker_core::{
    Backend, BackendError, Connect, Host, Key, OwnerHash, ProcessHash, StoreTime, Token,
};
use locker_redis::Redis;
use locker_testkit::servers::redis::{Cluster, Server, Setup, shared};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A TTL that no test waits for.
const LONG: Duration = Duration::from_secs(120);
/// After how long something that must happen has not.
const PATIENCE: Duration = Duration::from_secs(60);

/// A name that nobody has ever used.
fn fresh(what: &str) -> String {
    format!("{what}{:016x}", RandomState::new().build_hasher().finish())
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// The URLs of the deployments that these tests know.
fn urls() -> Vec<String> {
    vec![
        shared::server().unwrap().url().to_owned(),
        shared::cluster().unwrap().url().to_owned(),
    ]
}

/// A living process with a connection of its own.
#[derive(Debug)]
struct Process {
    store: Redis,
    backend: Arc<dyn Backend>,
    hash: ProcessHash,
    sequence: AtomicU64,
}

impl Process {
    async fn born(url: &str, namespace: &str) -> Self {
        let process = Self::unborn(url, namespace).await;
        process
            .backend
            .create_process(&process.hash, LONG)
            .await
            .unwrap();
        process
    }

    async fn unborn(url: &str, namespace: &str) -> Self {
        let store = Redis::from_url(url).unwrap().namespace(namespace);
        let nonce = u128::from(RandomState::new().build_hasher().finish());
        Self {
            backend: store.connect(Side::Caller).await.unwrap(),
            store,
            hash: ProcessHash::new(&Host::new("h").unwrap(), 1, nonce),
            sequence: AtomicU64::new(0),
        }
    }

    fn owner(&self, text: &str) -> OwnerHash {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        OwnerHash::new(&key(text), &self.hash, sequence, None)
    }

    async fn create(&self, owner: &OwnerHash) -> Result<Claimed, BackendError> {
        Ok(self.backend.try_create(&claim(owner)).await?.value)
    }

    async fn acquire(&self, text: &str) -> OwnerHash {
        let owner = self.owner(text);
        token(&self.create(&owner).await.unwrap());
        owner
    }

    /// Begins to wait for this lock.
    async fn watch(&self, text: &str) -> Result<HintStream, BackendError> {
        let waits = Watcher::Waiter(self.hash.clone());
        self.backend.watch(&key(text), &waits).await
    }
}

/// A claim without a limit in time.
fn claim(owner: &OwnerHash) -> Claim {
    Claim {
        owner: owner.clone(),
        ttl: LONG,
        not_after: StoreTime::from_micros(u64::MAX),
    }
}

fn token(claimed: &Claimed) -> Token {
    match claimed {
        Claimed::Granted(token) => *token,
        other => panic!("it should be granted, but: {other:?}"),
    }
}

/// Acquires a lock, however long that takes.
async fn acquire(locker: &Locker, text: &str) -> LockGuard {
    let options = AcquireOptions::new().wait(Wait::Forever);
    match locker.acquire(text, options).await.unwrap() {
        Acquired::Guard(guard) => guard,
        held @ Acquired::SomeoneElseHoldsLock(_) => panic!("{held:?}"),
    }
}

/// On which node of a cluster a key lies now.
fn place_of(servers: &Cluster, name: &str) -> usize {
    servers.node_of(servers.slot_of(name).unwrap()).unwrap()
}

/// Waits until the condition holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let limit = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < limit, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
