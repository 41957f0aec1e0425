//! The bare client: the smallest pair of statements that makes a lock, one row a statement; the smallest
//! pair of functions that makes one with a fencing token; and session advisory locks.

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

/// What a lock with a fencing token needs at least: the row stays, and one function takes it by the clock
/// of the server and another gives it back. Nothing is judged here: no process, no deadline, no other case.
pub(crate) struct Functions {
    pool: PgPool,
}

impl Functions {
    /// Makes the table and the functions, and the pool of so many connections.
    pub(crate) async fn on(url: &str, connections: u32) -> Result<Self, Failure> {
        let Rows { pool } = Rows::on(url, connections).await?;
        let functions = "
            CREATE TABLE IF NOT EXISTS least (
                key text PRIMARY KEY, token bigint NOT NULL, owner text, expires bigint
            ) WITH (fillfactor = 50);
            CREATE OR REPLACE FUNCTION least_take(wanted text, claimant text, ttl bigint)
            RETURNS bigint LANGUAGE plpgsql AS $$
            DECLARE
                now bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
                granted bigint;
            BEGIN
                UPDATE least SET
                    token = greatest(token + 1, now), owner = claimant, expires = now + ttl
                WHERE key = wanted AND owner IS NULL
                RETURNING token INTO granted;
                IF granted IS NULL THEN
                    INSERT INTO least VALUES (wanted, now, claimant, now + ttl)
                    ON CONFLICT (key) DO NOTHING RETURNING token INTO granted;
                END IF;
                RETURN granted;
            END
            $$;
            CREATE OR REPLACE FUNCTION least_give_back(wanted text, claimant text)
            RETURNS bigint LANGUAGE plpgsql AS $$
            DECLARE
                freed bigint;
            BEGIN
                UPDATE least SET owner = NULL, expires = NULL
                WHERE key = wanted AND owner = claimant
                RETURNING token INTO freed;
                RETURN freed;
            END
            $$;";
        sqlx::raw_sql(functions).execute(&pool).await?;
        Ok(Self { pool })
    }
}

impl Bare for Functions {
    type Client = PgPool;

    async fn client(&self) -> Result<PgPool, Failure> {
        Ok(self.pool.clone())
    }

    async fn pair(client: &mut PgPool, key: &str, value: &str) -> Result<(), Failure> {
        let take = sqlx::query_scalar("SELECT least_take($1, $2, 300000000)");
        let give_back = sqlx::query_scalar("SELECT least_give_back($1, $2)");
        for query in [take, give_back] {
            let token: Option<i64> = query.bind(key).bind(value).fetch_one(&*client).await?;
            if token.is_none() {
                return Err("the least function met somebody else".into());
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
