//! A client beside the locker's: an administrator, who knows no lock.

use crate::harness::worker::name;
use etcd_client::{AlarmAction, AlarmType, Client, CompactionOptions, GetOptions, PutOptions};
use std::fmt;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The namespace.
const NAMESPACE: &str = "locker";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of one cluster.
pub struct Admin {
    client: Client,
    /// Dropped last: the client's connection lives on it.
    runtime: Runtime,
}

impl Admin {
    /// A client of the members at these addresses.
    ///
    /// # Errors
    ///
    /// When there is no thread, or an address is none.
    pub fn of(addresses: &[String]) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let client = runtime
            .block_on(Client::connect(addresses, None))
            .map_err(|error| error.to_string())?;
        Ok(Self { client, runtime })
    }

    /// The key of a lock.
    pub fn lock(key: usize) -> String {
        format!("{NAMESPACE}/lock/{}!owner", name(key))
    }

    /// What the keys of those begin with who wait for a lock.
    pub fn waiters(key: usize) -> String {
        format!("{NAMESPACE}/wait/{}!", name(key))
    }

    /// Removes everything whose key begins so; answers how many keys that were.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn delete(&mut self, beginning: &str) -> Result<u64, String> {
        let all = etcd_client::DeleteOptions::new().with_prefix();
        let mut client = self.client.clone();
        let beginning = beginning.to_owned();
        let deleted = self.wait(async move { client.delete(beginning, Some(all)).await })?;
        Ok(deleted.deleted().unsigned_abs())
    }

    /// Removes everything of the namespace.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn empty(&mut self) -> Result<u64, String> {
        self.delete(&format!("{NAMESPACE}/"))
    }

    /// Writes a value, under the lease that the key has, if there is one.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn put(&mut self, key: &str, value: &str, keeps_lease: bool) -> Result<(), String> {
        let options = keeps_lease.then(|| PutOptions::new().with_ignore_lease());
        let mut client = self.client.clone();
        let (key, value) = (key.to_owned(), value.to_owned());
        self.wait(async move { client.put(key, value, options).await })
            .map(drop)
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// What the server says against it, and that there is none.
    pub fn value(&mut self, key: &str) -> Result<String, String> {
        let mut client = self.client.clone();
        let asked = key.to_owned();
        let found = self.wait(async move { client.get(asked, None).await })?;
        let value = found
            .kvs()
            .first()
            .map(|one| one.value_str().map(str::to_owned));
        match value {
            Some(value) => value.map_err(|error| error.to_string()),
            None => Err(format!("there is no {key}")),
        }
    }

    /// Revokes the lease on which a lock hangs, and with it its owner's process.
    ///
    /// # Errors
    ///
    /// When the lock is free; and what the server says against it.
    pub fn revoke_lease_of(&mut self, key: usize) -> Result<(), String> {
        let mut client = self.client.clone();
        let found = self.wait(async move { client.get(Self::lock(key), None).await })?;
        let lease = found.kvs().first().map(etcd_client::KeyValue::lease);
        let lease = lease.ok_or("the lock is free")?;
        let mut client = self.client.clone();
        self.wait(async move { client.lease_revoke(lease).await })
            .map(drop)
    }

    /// Forgets all of the past that can be forgotten, and at once.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn compact(&mut self) -> Result<(), String> {
        let mut client = self.client.clone();
        let now = GetOptions::new().with_keys_only();
        let found = self.wait(async move { client.get("nothing", Some(now)).await })?;
        let revision = found
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let mut client = self.client.clone();
        let physically = CompactionOptions::new().with_physical();
        self.wait(async move { client.compact(revision, Some(physically)).await })
            .map(drop)
    }

    /// Raises the alarm of a full store on every member, or ends it.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn is_full(&mut self, is_full: bool) -> Result<(), String> {
        let action = if is_full {
            AlarmAction::Activate
        } else {
            AlarmAction::Deactivate
        };
        let mut client = self.client.clone();
        self.wait(async move { client.alarm(action, AlarmType::Nospace, None).await })
            .map(drop)
    }

    /// Makes another member lead: the one after the leader.
    ///
    /// Only the leader itself hands over, so this client must be one of its own alone.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn hands_over(&mut self) -> Result<(), String> {
        let mut client = self.client.clone();
        let status = self.wait(async move { client.status().await })?;
        let mut client = self.client.clone();
        let members = self.wait(async move { client.member_list().await })?;
        let next = members.members().iter().map(etcd_client::Member::id);
        let next = next.clone().find(|id| *id != status.leader());
        let next = next.ok_or("there is no other member")?;
        let mut client = self.client.clone();
        self.wait(async move { client.move_leader(next).await })
            .map(drop)
    }

    fn wait<T>(
        &self,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, String> {
        self.runtime.block_on(async {
            match tokio::time::timeout(PATIENCE, request).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {PATIENCE:?}")),
            }
        })
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}
