//! What the connections of one locker share: where the server is, and in which schema.

use crate::backend::PostgresBackend;
use crate::crash::CrashDetection;
use crate::error::{self, Stage};
use crate::hints::Debts;
use crate::lanes::{Lanes, Then};
use crate::migrate;
use crate::pooler::{Between, Pooler};
use crate::session::Source;
use crate::statement::{Of, Schema, Statements};
use crate::subscription::{self, Subscription};
use crate::url;
use async_trait::async_trait;
use locker_core::backend::Side;
use locker_core::{Backend, BackendError, Connect};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{ConnectOptions, PgConnection};
use std::fmt;
use std::sync::Arc;

/// How many connections the callers of one locker use at most. The first is opened at once, the
/// others when they are needed.
const CALLER_LANES: usize = 4;

/// The store on a Postgres server: one schema, used by many processes of many machines.
///
/// Nothing is opened before [`connect`](Connect::connect), and nothing is created but by
/// [`migrate`](Self::migrate). The callers of acquire and release share up to four connections, or
/// a pool that was handed in; the Reporter has two of its own; and whoever waits for locks has one
/// more, on which the server tells what becomes free.
///
/// ```no_run
/// # use locker_postgres::Postgres;
/// # use locker_core::{Connect, backend::Side};
/// # async fn example() -> Result<(), locker_core::BackendError> {
/// let store = Postgres::from_url("postgres://app@db.example/app")?.namespace("billing");
/// store.migrate().await?;
/// let backend = store.connect(Side::Caller).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Postgres {
    options: PgConnectOptions,
    pool: Option<PgPool>,
    pooler: Arc<Pooler>,
    crash_detection: CrashDetection,
    schema: String,
    debts: Arc<Debts>,
}

impl Postgres {
    /// The store behind a URL: `postgres://user:password@host:port/database?sslmode=require`, with
    /// every parameter that [`PgConnectOptions`] reads. What the URL leaves out is taken from the
    /// environment (`PGHOST`, `PGUSER`, …) and from the password file, as `psql` does. Three parameters
    /// are the locker's own: `crash_detection=session` with `grace=3s` ([`CrashDetection`]), and
    /// `between=sessions` or `between=transactions` ([`Between`]).
    ///
    /// # Errors
    ///
    /// `Config` when it is no such URL, or has a parameter that nobody knows, which is named. The text
    /// of the error contains nothing else of the URL.
    pub fn from_url(url: &str) -> Result<Self, BackendError> {
        let parsed = url::parse(url)?;
        let detection =
            CrashDetection::from_words(parsed.own("crash_detection"), parsed.own("grace"))?;
        let between = match parsed.own("between") {
            None => None,
            Some("sessions") => Some(Between::Sessions),
            Some("transactions") => Some(Between::Transactions),
            Some(_) => return Err(error::config("between is `sessions` or `transactions`")),
        };
        let store = Self::from_options(parsed.options).crash_detection(detection);
        Ok(match between {
            None => store,
            Some(between) => store.between(between),
        })
    }

    /// The store that these options lead to.
    pub fn from_options(options: PgConnectOptions) -> Self {
        Self {
            // Statements go to nobody's log: their texts say nothing, and their number a lot.
            options: options
                .disable_statement_logging()
                // Poolers refuse connections that ask for what they do not know, and no number here
                // is a fraction.
                .extra_float_digits(None),
            pool: None,
            pooler: Arc::new(Pooler::new(Between::FindOut)),
            crash_detection: CrashDetection::default(),
            schema: "locker".to_owned(),
            debts: Arc::default(),
        }
    }

    /// A store whose callers use this pool. The Reporter, and whoever waits, open connections of
    /// their own by the pool's options, because the pool belongs to the caller's runtime and may be
    /// empty when it matters.
    ///
    /// A connection is taken from the pool for each request, unless there is more to do at once. A
    /// pool that tests its connections before it gives them away (as is the default of sqlx) adds a
    /// round trip to each.
    pub fn pool(pool: PgPool) -> Self {
        let options = (*pool.connect_options()).clone();
        Self {
            pool: Some(pool),
            ..Self::from_options(options)
        }
    }

    /// The namespace, which is the name of a schema in the database; the locks of two namespaces
    /// never meet. The default is `locker`.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.schema);
        // A value that was cloned before owes nothing in this schema.
        self.debts = Arc::default();
        self
    }

    /// What is between this locker and the server, if it is known. The default finds out when the
    /// first connection is opened; of a pooler that is there it assumes that it gives a session for
    /// each transaction only.
    #[must_use]
    pub fn between(mut self, between: Between) -> Self {
        self.pooler = Arc::new(Pooler::new(between));
        self
    }

    /// How others see that a process of this locker has died. The default is by its reports.
    #[must_use]
    pub fn crash_detection(mut self, by: CrashDetection) -> Self {
        self.crash_detection = by;
        self
    }

    /// Creates the schema, its tables and its functions, or brings them up to date. It is safe to
    /// call from many processes at once, and does nothing where there is nothing to do.
    ///
    /// The role needs the right to create the schema, or owns it.
    ///
    /// # Errors
    ///
    /// `Denied` without that right; `Config` if the schema is newer than this release; otherwise as
    /// connecting. Nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// It is one transaction: dropped, it has happened or not.
    pub async fn migrate(&self) -> Result<(), BackendError> {
        migrate::run(&mut self.dedicated().await?, &self.schema()?).await
    }

    /// Says what would hinder a locker: no schema, an old one, a standby. Nothing is changed.
    ///
    /// # Errors
    ///
    /// As [`connect`](Connect::connect).
    pub async fn check(&self) -> Result<(), BackendError> {
        // On a connection of its own, as reports have.
        let session = self.source(Side::Reports)?.open().await?;
        session.close().await;
        Ok(())
    }

    /// What [`migrate`](Self::migrate) does in an empty database, as text for those who change
    /// their databases by other means.
    ///
    /// # Errors
    ///
    /// `Config` when the namespace is no name of a schema.
    pub fn migrations(&self) -> Result<String, BackendError> {
        Ok(migrate::text(&self.schema()?))
    }

    pub(crate) fn schema(&self) -> Result<Schema, BackendError> {
        Schema::new(&self.schema)
    }

    /// Where the connections of one side come from.
    fn source(&self, side: Side) -> Result<Source, BackendError> {
        let (pool, prepared): (_, &'static [Of]) = match side {
            Side::Caller => (
                self.pool.clone(),
                &[|all| &all.try_create, |all| &all.release],
            ),
            Side::Reports => (None, &[|all| &all.renew_process]),
            Side::Upkeep => (None, &[|all| &all.extend, |all| &all.standings]),
        };
        Ok(Source {
            options: self.options.clone(),
            pool,
            pooler: Arc::clone(&self.pooler),
            statements: Arc::new(Statements::of(&self.schema()?)),
            prepared,
        })
    }

    /// Withdraws the enrolments that the connection before this one has left behind.
    async fn pay_debts(&self, lanes: &Lanes) {
        let Some(taken) = self.debts.take() else {
            return;
        };
        let withdrawal = subscription::withdrawal(&taken);
        match lanes.ask(|s| &s.withdraw, withdrawal, Then::Nothing).await {
            Ok(_) => taken.paid(),
            Err(error) => tracing::debug!(%error, "enrolments could not be withdrawn yet"),
        }
    }

    async fn dedicated(&self) -> Result<PgConnection, BackendError> {
        self.options
            .connect()
            .await
            .map_err(|cause| error::from_sqlx(cause, Stage::Opening))
    }
}

/// Shows no password, and no options that could contain one.
impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("database", &self.options.get_database())
            .field("schema", &self.schema)
            .field("pooled", &self.pool.is_some())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Connect for Postgres {
    /// Opens a connection whose tasks run on the current tokio runtime, with its I/O driver and its
    /// timers.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    /// * `Config`: the schema is missing (its text names the command), older or newer than this
    ///   release can use; the database is not UTF-8; the options make no sense, as
    ///   [`CrashDetection::Session`] does not behind a pooler.
    /// * `Denied`: the server does not accept the role, or the role has no rights.
    /// * `Unavailable`: the server cannot be reached, has no connection left, or is a standby. Ask
    ///   again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves nothing: what it had open is closed.
    async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        let lanes = match side {
            Side::Caller => CALLER_LANES,
            // A report never queues behind anything, and upkeep comes one by one.
            Side::Reports | Side::Upkeep => 1,
        };
        let source = self.source(side)?;
        let channel = self.schema()?.channel();
        let statements = Arc::clone(&source.statements);
        let (lanes, pooled) = Lanes::open(source, lanes, channel.clone()).await?;
        if pooled && self.crash_detection != CrashDetection::Reports {
            return Err(error::config(
                "a connection pooler is between, so nobody has a session of its own; \
                 crash_detection=session needs one",
            ));
        }
        // A report must not wait for it.
        if side == Side::Caller {
            self.pay_debts(&lanes).await;
        }
        let subscription = (!pooled).then(|| {
            let debts = Arc::clone(&self.debts);
            Subscription::new(self.options.clone(), channel, statements, debts)
        });
        Ok(Arc::new(PostgresBackend::new(
            lanes,
            subscription,
            self.crash_detection,
        )))
    }
}
