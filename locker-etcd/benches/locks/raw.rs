//! The bare client: the smallest pair of requests that makes a lock, one key a request; and the
//! server's own lock service.

use etcd_client::{Client, Compare, CompareOp, KvClient, LockClient, LockOptions, Txn, TxnOp};
use locker_testkit::figures::{Bare, Failure};

/// How long a lease of the lock service lasts, in seconds: longer than everything here.
const LEASE_SECS: i64 = 3600;

/// A connection of its own to the first server of this address.
pub(crate) async fn connect(url: &str) -> Result<Client, Failure> {
    let members = url
        .strip_prefix("etcd://")
        .ok_or("not an address of etcd")?;
    let first = members.split(',').next().unwrap_or_default();
    Ok(Client::connect([first], None).await?)
}

/// A connection of the kind that the store uses. Clones share it.
#[derive(Clone)]
pub(crate) struct Raw(KvClient);

impl Raw {
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        Ok(Self(connect(url).await?.kv_client()))
    }
}

impl Bare for Raw {
    type Client = Self;

    async fn client(&self) -> Result<Self, Failure> {
        Ok(self.clone())
    }

    /// Puts the key if it is absent, and deletes it: two round trips.
    async fn pair(client: &mut Self, key: &str, value: &str) -> Result<(), Failure> {
        let absent = Compare::create_revision(key, CompareOp::Equal, 0);
        let put = Txn::new()
            .when([absent])
            .and_then([TxnOp::put(key, value, None)]);
        if !client.0.txn(put).await?.succeeded() {
            return Err("the bare client found its key taken".into());
        }
        if client.0.delete(key, None).await?.deleted() != 1 {
            return Err("the bare client found its key gone".into());
        }
        Ok(())
    }
}

/// The lock service over one connection, under one lease for each waiter: it takes two requests
/// under one lease for one.
#[derive(Clone)]
pub(crate) struct Service {
    client: LockClient,
    leases: Vec<i64>,
}

impl Service {
    pub(crate) async fn open(url: &str, waiters: usize) -> Result<Self, Failure> {
        let mut client = connect(url).await?;
        let mut leases = Vec::new();
        for _ in 0..waiters {
            leases.push(client.lease_grant(LEASE_SECS, None).await?.id());
        }
        Ok(Self {
            client: client.lock_client(),
            leases,
        })
    }

    /// Each of its waiters.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> {
        self.leases.iter().map(|lease| Self {
            client: self.client.clone(),
            leases: vec![*lease],
        })
    }

    /// Locks, and answers the key by which it is unlocked.
    pub(crate) async fn lock(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        let lease = self.leases.first().copied().unwrap_or(0);
        let options = LockOptions::new().with_lease(lease);
        let answer = self.client.lock(name, Some(options)).await?;
        Ok(answer.key().to_vec())
    }

    pub(crate) async fn unlock(&mut self, key: Vec<u8>) -> Result<(), Failure> {
        self.client.unlock(key).await?;
        Ok(())
    }
}

impl Bare for Service {
    type Client = Self;

    async fn client(&self) -> Result<Self, Failure> {
        Ok(self.clone())
    }

    async fn pair(client: &mut Self, key: &str, _: &str) -> Result<(), Failure> {
        let key = client.lock(&format!("service-{key}")).await?;
        client.unlock(key).await
    }
}
