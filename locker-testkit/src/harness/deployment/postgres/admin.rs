//! A session of somebody who knows no lock: an administrator, a colleague with a transaction open.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection, Row};
use std::fmt;
use std::str::FromStr;
use tokio::runtime::Runtime;

/// By what its own sessions are known from those of workers.
pub const NAME: &str = "harness";

/// A session as the role that may do everything. It ends with the value, and what it has open is
/// rolled back.
pub struct Admin {
    connection: PgConnection,
    /// Dropped last: the connection lives on it.
    runtime: Runtime,
}

impl Admin {
    /// A session on this server.
    ///
    /// # Errors
    ///
    /// When the server does not admit it.
    pub fn of(url: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| error.to_string())?
            .application_name(NAME)
            .disable_statement_logging();
        let connection = runtime
            .block_on(options.connect())
            .map_err(|error| error.to_string())?;
        Ok(Self {
            connection,
            runtime,
        })
    }

    /// Runs statements.
    ///
    /// # Errors
    ///
    /// What the server says against them.
    pub fn run(&mut self, sql: &str) -> Result<(), String> {
        self.texts(sql).map(drop)
    }

    /// The first column of what a statement answers; it must be text.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn texts(&mut self, sql: &str) -> Result<Vec<String>, String> {
        let statements = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let rows = self.runtime.block_on(self.connection.fetch_all(statements));
        let rows = rows.map_err(|error| format!("{sql}: {error}"))?;
        let texts = rows.iter().map(|row| row.try_get::<String, _>(0));
        texts
            .collect::<Result<_, _>>()
            .or_else(|error| match error {
                // A function that answers nothing.
                sqlx::Error::ColumnDecode { .. } => Ok(Vec::new()),
                error => Err(format!("{sql}: {error}")),
            })
    }

    /// The number that a statement answers.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn number(&mut self, sql: &str) -> Result<u64, String> {
        let said = self.texts(&format!("SELECT ({sql})::text"))?;
        let number = said.first().and_then(|said| said.parse().ok());
        number.ok_or_else(|| format!("{sql}: {said:?}"))
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}
