//! One connection, and one request on it at a time.
//!
//! A request is one statement in a transaction of its own. Its answer counts only when the server is
//! ready for the next one: under the extended protocol the rows come *before* the commit, so all of
//! the answer is read, always, and an error at the commit is an error of the request.

use crate::arguments::{self, Value};
use crate::error::{self, Stage};
use crate::migrate;
use crate::pooler::{self, Pooler};
use crate::statement::{Of, Statement, Statements};
use locker_core::BackendError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgRow};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Row};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a connection that is given up may take to say so to the server.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where connections come from.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) options: PgConnectOptions,
    pub(crate) pool: Option<PgPool>,
    pub(crate) pooler: Arc<Pooler>,
    pub(crate) statements: Arc<Statements>,
    /// What is prepared while a connection is being opened.
    pub(crate) prepared: &'static [Of],
}

/// Without the options, which hold a password.
impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("pooler", &self.pooler)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// A connection that was examined, and is ready for the requests that are in a hurry.
    pub(crate) async fn open(&self) -> Result<Session, BackendError> {
        let first = match (&self.pool, self.pooler.is_known_to_pool()) {
            (None, None) => Some(self.find_out().await?),
            // What is between is the same for a connection of our own.
            (Some(_), None) => {
                self.find_out().await?.close().await;
                None
            }
            (_, Some(_)) => None,
        };
        let mut session = match (first, &self.pool) {
            (Some(session), _) => session,
            (None, Some(pool)) => self.lend(pool).await?,
            (None, None) => self.session(self.connect(&self.options).await?),
        };
        let about = session.about(&self.statements).await?;
        session.settle_isolation(&about).await?;
        session.prepare(&self.statements, self.prepared).await?;
        Ok(session)
    }

    /// One of a pool's connections, which are alike, so that one examination is enough.
    pub(crate) async fn lend(&self, pool: &PgPool) -> Result<Session, BackendError> {
        Ok(Session {
            connection: Connected::Lent(lend(pool).await?),
            written: self.pooler.is_known_to_pool() != Some(false),
        })
    }

    /// Opens a connection under a name of its own, and looks whether the session that answers was
    /// given that name.
    async fn find_out(&self) -> Result<Session, BackendError> {
        let begun = Instant::now();
        let name = pooler::new_name()?;
        let named = self.options.clone().options([(pooler::NAME, &name)]);
        let connection = match named.connect().await {
            Ok(connection) => connection,
            // Poolers refuse what they cannot pass on. If it is not that, it fails again.
            Err(sqlx::Error::Database(refused)) if pooler::may_be_of_a_pooler(&*refused) => {
                let connection = self.connect(&self.options).await?;
                self.pooler.learn(true);
                return Ok(self.session(connection));
            }
            Err(cause) => return Err(self.opening(cause)),
        };
        let mut session = Session {
            connection: Connected::Own(Box::new(connection)),
            written: true,
        };
        let about = session.about(&self.statements).await?;
        let own = !about.is_older_than(begun) && session.is_named(&name, &about).await?;
        self.pooler.learn(!own);
        session.written = !own;
        Ok(session)
    }

    fn session(&self, connection: PgConnection) -> Session {
        Session {
            connection: Connected::Own(Box::new(connection)),
            written: self.pooler.is_known_to_pool() != Some(false),
        }
    }

    async fn connect(&self, options: &PgConnectOptions) -> Result<PgConnection, BackendError> {
        options.connect().await.map_err(|cause| self.opening(cause))
    }

    /// Why there is no connection. Over the network the only files that can be missing are those of
    /// certificates and keys; otherwise it may be the socket of a server that is not running.
    fn opening(&self, cause: sqlx::Error) -> BackendError {
        let options = &self.options;
        let over_network = options.get_socket().is_none() && !options.get_host().starts_with('/');
        match &cause {
            sqlx::Error::Io(io)
                if over_network
                    && matches!(
                        io.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                    ) =>
            {
                error::config("a certificate or key that the configuration names cannot be read")
                    .with_source(cause)
            }
            _ => error::from_sqlx(cause, Stage::Opening),
        }
    }
}

async fn lend(pool: &PgPool) -> Result<PoolConnection<sqlx::Postgres>, BackendError> {
    let lent = pool.acquire().await;
    lent.map_err(|cause| error::from_sqlx(cause, Stage::Opening))
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connected,
    /// Whether arguments are written into the statement, because a pooler may stand between.
    written: bool,
}

#[derive(Debug)]
enum Connected {
    Own(Box<PgConnection>),
    Lent(PoolConnection<sqlx::Postgres>),
}

/// What a session says of itself.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// Which session of the server it is.
    pub(crate) pid: i32,
    /// For how long the server has had it.
    pub(crate) age: Duration,
    isolation: String,
}

impl About {
    /// Whether the session is older than the connection on which it answers.
    pub(crate) fn is_older_than(&self, connecting: Instant) -> bool {
        // Clocks of two machines tell the same span a little differently.
        let span = connecting.elapsed();
        self.age > span + span / 4 + Duration::from_millis(50)
    }
}

impl Session {
    /// Asks the session for itself, and refuses a schema or a server that cannot be used. Nothing is
    /// prepared for it: what is between is not known yet.
    async fn about(&mut self, statements: &Statements) -> Result<About, BackendError> {
        let opening = |cause| error::from_sqlx(cause, Stage::Opening);
        let rows = sqlx::raw_sql(statements.about.written(&[]))
            .fetch_all(self.connection())
            .await
            .map_err(opening)?;
        let Some(about) = rows.first() else {
            return Err(error::config(
                "the schema of the locker has no version; `locker migrate` creates it",
            ));
        };
        migrate::judge(
            about.try_get("version").map_err(opening)?,
            about.try_get("oldest_client").map_err(opening)?,
        )?;
        if about.try_get("standby").map_err(opening)? {
            return Err(error::unavailable(
                "the server is a standby; the locker asks the primary only",
            ));
        }
        let encoding: &str = about.try_get("encoding").map_err(opening)?;
        if encoding != "UTF8" {
            return Err(error::config(format!(
                "the database is encoded in {encoding}; the locker keeps any text, so it needs UTF8"
            )));
        }
        let age: i64 = about.try_get("age").map_err(opening)?;
        Ok(About {
            pid: about.try_get("pid").map_err(opening)?,
            age: Duration::from_micros(u64::try_from(age).unwrap_or(0)),
            isolation: about.try_get("isolation").map_err(opening)?,
        })
    }

    /// Whether the session that answers now is the one that was asked before, and bears this name.
    async fn is_named(&mut self, name: &str, before: &About) -> Result<bool, BackendError> {
        let opening = |cause| error::from_sqlx(cause, Stage::Opening);
        let row = sqlx::raw_sql(pooler::ASK)
            .fetch_one(self.connection())
            .await
            .map_err(opening)?;
        let pid: i32 = row.try_get("pid").map_err(opening)?;
        let found: Option<&str> = row.try_get("name").map_err(opening)?;
        Ok(pid == before.pid && found == Some(name))
    }

    /// The functions refuse another isolation than READ COMMITTED. A session of our own is simply
    /// given the right one; others are not ours to change.
    async fn settle_isolation(&mut self, about: &About) -> Result<(), BackendError> {
        let isolation = &about.isolation;
        if matches!(isolation.as_str(), "read committed" | "read uncommitted") {
            return Ok(());
        }
        if self.written || matches!(self.connection, Connected::Lent(_)) {
            return Err(error::config(format!(
                "transactions of this connection are {isolation} by default; the locker works under \
                 READ COMMITTED only, so set default_transaction_isolation for its role"
            )));
        }
        self.run("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED")
            .await
    }

    /// Prepares these statements now.
    ///
    /// Otherwise the first request of each takes two round trips instead of one. On a network whose
    /// round trips are long but fit into a request's time, two of them do not, and a connection on which
    /// a request runs out of time is replaced: every new one would be lost to its first requests (F12).
    /// An opening takes the time that it needs.
    async fn prepare(&mut self, statements: &Statements, which: &[Of]) -> Result<(), BackendError> {
        if self.written {
            return Ok(());
        }
        for of in which {
            let prepared = self.connection().prepare(of(statements).bound()).await;
            prepared.map_err(|cause| error::from_sqlx(cause, Stage::Opening))?;
        }
        Ok(())
    }

    /// Whether arguments are written into the statement.
    pub(crate) fn is_pooled(&self) -> bool {
        self.written
    }

    /// Calls one function and reads its whole answer.
    pub(crate) async fn ask(
        &mut self,
        statement: &Statement,
        arguments: Vec<Value>,
    ) -> Result<Vec<PgRow>, BackendError> {
        let asked = if self.written {
            sqlx::raw_sql(statement.written(&arguments))
                .fetch_all(self.connection())
                .await
        } else {
            sqlx::query_with(statement.bound(), arguments::bind(arguments)?)
                .fetch_all(self.connection())
                .await
        };
        asked.map_err(|cause| error::from_sqlx(cause, Stage::Sent))
    }

    async fn run(&mut self, sql: &'static str) -> Result<(), BackendError> {
        let run = self.connection().execute(sql).await;
        run.map(|_| ())
            .map_err(|cause| error::from_sqlx(cause, Stage::Opening))
    }

    /// Takes leave of the server; a pool gets its connection back.
    pub(crate) async fn close(self) {
        match self.connection {
            Connected::Own(connection) => {
                let closed = tokio::time::timeout(FAREWELL, connection.close()).await;
                if let Ok(Err(error)) = closed {
                    tracing::debug!(%error, "a connection did not close in order");
                }
            }
            Connected::Lent(connection) => drop(connection),
        }
    }

    /// Gives up a connection of which nothing is known any more.
    pub(crate) fn abandon(self) {
        match self.connection {
            // The socket closes with the value.
            Connected::Own(connection) => drop(connection),
            Connected::Lent(connection) => drop(connection.detach()),
        }
    }

    fn connection(&mut self) -> &mut PgConnection {
        match &mut self.connection {
            Connected::Own(connection) => connection,
            Connected::Lent(connection) => connection,
        }
    }
}
