//! What the tests of the store share: servers, names, and requests whose errors are failures.
// Every test binary uses its own part.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use etcd_client::Client;
use locker_core::backend::{Claim, Claimed, Held, Liveness, Side};
use locker_core::{Backend, Connect, Host, Key, OwnerHash, ProcessHash, StoreTime, Token};
use locker_etcd::Etcd;
use locker_testkit::servers::etcd::{Server, Setup};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const LONG: Duration = Duration::from_secs(120);
/// The least that a server grants.
pub const BRIEF: Duration = Duration::from_secs(2);

/// A server of this test alone.
pub fn server() -> Server {
    server_as(&Setup::new())
}

pub fn server_as(setup: &Setup) -> Server {
    Server::start(setup).unwrap_or_else(|missing| panic!("there is no store to test: {missing}"))
}

/// A locker's store in this server.
pub fn store(server: &Server) -> Etcd {
    Etcd::from_url(server.url()).unwrap()
}

/// One connection of a locker of its own.
pub async fn open(server: &Server) -> Arc<dyn Backend> {
    connect(&store(server)).await
}

pub async fn connect(store: &Etcd) -> Arc<dyn Backend> {
    store.connect(Side::Caller).await.unwrap()
}

/// A client beside the store's, for looking and for spoiling.
pub async fn raw(server: &Server) -> Client {
    let address = server.url().trim_start_matches("etcd://").to_owned();
    Client::connect([address], None).await.unwrap()
}

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// A process of this machine with a nonce of its own.
pub fn process(nonce: u128) -> ProcessHash {
    ProcessHash::new(&Host::new("here").unwrap(), std::process::id(), nonce)
}

/// A living process of this store.
pub async fn born(store: &Arc<dyn Backend>, nonce: u128) -> ProcessHash {
    born_for(store, nonce, LONG).await
}

pub async fn born_for(store: &Arc<dyn Backend>, nonce: u128, ttl: Duration) -> ProcessHash {
    let process = process(nonce);
    store.create_process(&process, ttl).await.unwrap();
    process
}

pub fn owner(name: &str, process: &ProcessHash, seq: u64) -> OwnerHash {
    OwnerHash::new(&key(name), process, seq, None)
}

pub fn claim(owner: &OwnerHash) -> Claim {
    Claim {
        owner: owner.clone(),
        ttl: LONG,
        not_after: StoreTime::from_micros(u64::MAX),
    }
}

pub async fn create(store: &Arc<dyn Backend>, owner: &OwnerHash) -> Claimed {
    store.try_create(&claim(owner)).await.unwrap().value
}

pub async fn acquire(store: &Arc<dyn Backend>, owner: &OwnerHash) -> Token {
    granted(create(store, owner).await)
}

pub async fn observe(store: &Arc<dyn Backend>, name: &str) -> Held {
    store.read_lock(&key(name)).await.unwrap().value.unwrap()
}

pub async fn liveness(store: &Arc<dyn Backend>, process: &ProcessHash) -> Liveness {
    store.read_process(process).await.unwrap().value
}

pub fn granted(claimed: Claimed) -> Token {
    match claimed {
        Claimed::Granted(token) => token,
        other => panic!("not granted: {other:?}"),
    }
}

pub fn held(claimed: Claimed) -> Held {
    match claimed {
        Claimed::Held(held) => held,
        other => panic!("not held: {other:?}"),
    }
}

/// Where things lie.
pub fn lock_key(name: &str) -> String {
    format!("locker/lock/{name}!owner")
}

pub fn process_key(process: &ProcessHash) -> String {
    format!("locker/process/{process}!")
}

/// The lease of a process, as its record hangs on it.
pub async fn lease(raw: &mut Client, process: &ProcessHash) -> i64 {
    let found = raw.get(process_key(process), None).await.unwrap();
    found.kvs()[0].lease()
}

/// Polls until something holds, for twenty seconds at most; answers how long it took.
pub async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(20), "it never held");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}
