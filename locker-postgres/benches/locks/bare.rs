//! The bare client: the smallest pair of statements that makes a lock, one row a statement; and
//! session advisory locks.

use locker_testkit::figures::{Bare, Failure};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection};

/// A row is there while the lock is held. All tasks share a pool.
pub(crate) struct Rows {
    pool: PgPool,
}

impl Rows {
    /// Makes the table, and the pool of so many connections.
    pub(crate) async fn on(url: &str, connections: u32) -> Result<Self, Failure> {
        // It does not ask the server whether a connection works before it gives it away.
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false)
            .connect(url)
            .await?;
        let table = "CREATE TABLE IF NOT EXISTS bare (key text PRIMARY KEY, owner text NOT NULL)";
        sqlx::raw_sql(table).execute(&pool).await?;
        Ok(Self { pool })
    }
}

impl Bare for Rows {
    type Client = PgPool;

    async fn client(&self) -> Result<PgPool, Failure> {
        Ok(self.pool.clone())
    }

    async fn pair(client: &mut PgPool, key: &str, value: &str) -> Result<(), Failure> {
        let take = "INSERT INTO bare (key, owner) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING";
        let give_back = "DELETE FROM bare WHERE key = $1 AND owner = $2";
        for statement in [take, give_back] {
            let query = sqlx::query(statement).bind(key).bind(value);
            let done = query.execute(&*client).await?;
            if done.rows_affected() != 1 {
                return Err("the bare client met somebody else".into());
            }
        }
        Ok(())
    }
}

/// The server's own locks, which last as long as the session; each task has one.
pub(crate) struct Advisory {
    url: String,
}

impl Advisory {
    pub(crate) fn on(url: &str) -> Self {
        Self {
            url: url.to_owned(),
        }
    }
}

impl Bare for Advisory {
    type Client = PgConnection;

    async fn client(&self) -> Result<PgConnection, Failure> {
        let options: PgConnectOptions = self.url.parse()?;
        Ok(options.connect().await?)
    }

    async fn pair(client: &mut PgConnection, key: &str, _: &str) -> Result<(), Failure> {
        for statement in [
            "SELECT pg_try_advisory_lock(hashtextextended($1, 0))",
            "SELECT pg_advisory_unlock(hashtextextended($1, 0))",
        ] {
            let query = sqlx::query_scalar(statement).bind(key);
            if !query.fetch_one(&mut *client).await? {
                return Err("an advisory lock was somebody else's".into());
            }
        }
        Ok(())
    }
}
