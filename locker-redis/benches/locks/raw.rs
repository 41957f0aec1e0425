//! The bare client: the smallest pair of scripts that makes a lock, one key a script; and the smallest one
//! that makes a lock with a fencing token.

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

static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME') \
         local now = time[1] * 1000000 + time[2] \
         local found = redis.call('HMGET', KEYS[1], 'token', 'owner') \
         if found[2] then return false end \
         local token = string.format('%.0f', math.max(now, (found[1] or 0) + 1)) \
         redis.call('HSET', KEYS[1], 'token', token, 'owner', ARGV[1], \
           'expires', string.format('%.0f', now + ARGV[2])) \
         return token",
    )
});
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end \
         redis.call('HDEL', KEYS[1], 'owner', 'expires') \
         return 1",
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

/// What a lock with a fencing token needs at least: the hash stays, and its next token is greater. Nothing
/// is judged here: no process, no deadline, no time that has passed, no other case.
pub(crate) struct Least {
    connection: MultiplexedConnection,
}

impl Least {
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        let client = Client::open(url)?;
        let connection = client.get_multiplexed_async_connection().await?;
        Ok(Self { connection })
    }
}

impl Bare for Least {
    type Client = MultiplexedConnection;

    async fn client(&self) -> Result<MultiplexedConnection, Failure> {
        Ok(self.connection.clone())
    }

    async fn pair(
        connection: &mut MultiplexedConnection,
        key: &str,
        value: &str,
    ) -> Result<(), Failure> {
        let key = format!("least-{key}");
        let mut take = TAKE.key(&key);
        let token: Option<u64> = take
            .arg(value)
            .arg(300_000_000)
            .invoke_async(connection)
            .await?;
        token.ok_or("the smallest script met somebody else")?;
        let mut give_back = GIVE_BACK.key(&key);
        let freed: i64 = give_back.arg(value).invoke_async(connection).await?;
        if freed != 1 {
            return Err("the smallest script found its lock gone".into());
        }
        Ok(())
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
