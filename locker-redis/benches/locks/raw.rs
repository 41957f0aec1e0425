//! The bare client: the smallest pair of scripts that makes a lock, one key a script.

use locker_testkit::figures::{Bare, Failure};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Client, Script, Value};
use std::sync::LazyLock;

static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new("return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])")
});
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end \
         return 0",
    )
});

/// A connection of the kind that the store uses. Clones share it.
#[derive(Clone)]
pub(crate) enum Raw {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Raw {
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        let Some(nodes) = url.strip_prefix("redis+cluster://") else {
            let client = Client::open(url)?;
            let connection = client.get_multiplexed_async_connection().await?;
            return Ok(Self::Server(connection));
        };
        let nodes = nodes.split('/').next().unwrap_or_default();
        let nodes = nodes.split(',').map(|node| format!("redis://{node}"));
        let client = ClusterClient::new(nodes)?;
        Ok(Self::Cluster(client.get_async_connection().await?))
    }
}

impl Bare for Raw {
    type Client = Self;

    async fn client(&self) -> Result<Self, Failure> {
        Ok(self.clone())
    }

    /// Two round trips.
    async fn pair(client: &mut Self, key: &str, value: &str) -> Result<(), Failure> {
        match client {
            Self::Server(connection) => pair(connection, key, value).await,
            Self::Cluster(connection) => pair(connection, key, value).await,
        }
    }
}

async fn pair(
    connection: &mut (impl ConnectionLike + Send + Sync),
    key: &str,
    value: &str,
) -> Result<(), Failure> {
    let mut acquire = ACQUIRE.key(key);
    let taken: Value = acquire
        .arg(value)
        .arg(300_000)
        .invoke_async(connection)
        .await?;
    if taken != Value::Okay {
        return Err(format!("the bare client got {taken:?}").into());
    }
    let mut release = RELEASE.key(key);
    let gone: i64 = release.arg(value).invoke_async(connection).await?;
    if gone != 1 {
        return Err("the bare client found its lock gone".into());
    }
    Ok(())
}
