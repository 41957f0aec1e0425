//! One connection, and one atomic step on it at a time.
//!
//! Why a step is what the contract wants it to be:
//!
//! * *A writing step* is one transaction that begins with `BEGIN IMMEDIATE`, so all writing steps of
//!   all processes stand in one order. Its clock is read **inside**, after the wait for the write
//!   lock: a step judged by a time from before that wait could renew what another step has since
//!   found dead (attack 13c). Boot clocks of one machine never run backwards, so later steps have
//!   later times, and a claim that comes after a settlement with a later time sees that itself.
//! * *A reading step* is one statement: one snapshot, no wait for writers. Its clock is read
//!   **before**. Death is one-way, so what a later snapshot shows as expired at an earlier time is
//!   expired for good; a clock read afterwards could declare dead what was renewed in between.
//! * *A step is never half done.* The task that runs it is not the caller's, so no caller's end cuts
//!   it short, and no blocked runtime holds it up. If that task itself ends (the process dies),
//!   SQLite rolls back what was not committed.
//! * A process that is stopped inside a writing step holds the write lock until it goes on or dies.
//!   Then nobody writes: owners stop in time, because no report succeeds, and nobody takes over.

use crate::actor::Caller;
use crate::boot::{Boot, Now};
use crate::config::Config;
use crate::error::{self, Stage};
use crate::hints::Hub;
use crate::liveness::Liveness;
use crate::mailbox::Mailbox;
use crate::open::{self, Database};
use crate::place::{self, FileId};
use crate::reboot;
use locker_core::BackendError;
use locker_core::backend::Reply;
use sqlx::{Connection, SqliteConnection};
use std::sync::Arc;

/// A connection to the store, reopened when it must be.
#[derive(Debug)]
pub(crate) struct Session {
    config: Config,
    liveness: Liveness,
    database: Option<Database>,
    /// The file that was open last.
    file: Option<FileId>,
    /// A transaction was begun and is not known to have ended.
    in_doubt: bool,
    pub(crate) hub: Arc<Hub>,
    /// Where this connection is woken; bound by the first watch.
    pub(crate) mailbox: Option<Mailbox>,
    /// Enrolments (number and socket) that are to be deleted when there is time.
    pub(crate) forgettable: Vec<(i64, String)>,
}

/// What every step needs to know besides the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'s> {
    pub(crate) namespace: &'s str,
    pub(crate) liveness: &'s Liveness,
    pub(crate) now: Now,
}

/// One step: a write transaction, or a single reading statement.
#[derive(Debug)]
pub(crate) struct Step<'s> {
    pub(crate) connection: &'s mut SqliteConnection,
    pub(crate) scope: Scope<'s>,
    in_doubt: &'s mut bool,
}

impl Session {
    pub(crate) fn new(config: Config, liveness: Liveness) -> Self {
        Self {
            config,
            liveness,
            database: None,
            file: None,
            in_doubt: false,
            hub: Arc::new(Hub::new()),
            mailbox: None,
            forgettable: Vec::new(),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Takes over a database that was just opened.
    pub(crate) async fn adopt(&mut self, mut database: Database) -> Result<(), BackendError> {
        let adopted = async {
            let boot = Boot::current()?;
            reboot::adopt_boot(&mut database.connection, &self.liveness, &boot).await
        };
        match adopted.await {
            Ok(()) => {
                if self.file.replace(database.file) != Some(database.file) {
                    // The enrolments stayed behind in the old file.
                    self.hub.end_all();
                    self.forgettable.clear();
                }
                self.database = Some(database);
                self.in_doubt = false;
                Ok(())
            }
            Err(error) => {
                database.connection.close().await.ok();
                Err(error)
            }
        }
    }

    /// Whether the path no longer leads to the file that is open (attack 13e). The file itself is
    /// not touched.
    pub(crate) fn is_replaced(&self) -> bool {
        match (&self.database, FileId::at(&self.config.path)) {
            (Some(database), Ok(found)) => found != Some(database.file),
            // What cannot be examined now is not known to be replaced.
            (_, Err(_)) | (None, _) => false,
        }
    }

    /// A usable connection to the file that is at the path *now*.
    ///
    /// After a replacement no step is done on the old file: it would be done where nobody sees it.
    /// In the new file the processes of the old one do not exist, so that is what every answer says.
    async fn ready(&mut self) -> Result<(), BackendError> {
        if self.is_replaced() {
            self.close().await;
        }
        self.resolve_doubt().await;
        if self.database.is_none() {
            place::check(&self.config.path)?;
            let database = open::database(&self.config).await?;
            self.adopt(database).await?;
        }
        Ok(())
    }

    /// Begins a writing step.
    ///
    /// # Errors
    ///
    /// Nothing was changed. If the caller went away during the wait for the write lock, the step is
    /// withdrawn.
    pub(crate) async fn write(
        &mut self,
        caller: &mut (dyn Caller + Send),
    ) -> Result<Step<'_>, BackendError> {
        self.ready().await?;
        let Some(database) = &mut self.database else {
            return Err(error::unavailable("the database is not open"));
        };
        let connection = &mut database.connection;
        // A BEGIN that fails has begun nothing; a connection on which it fails for another reason
        // than a busy writer is not trusted with a second one.
        self.in_doubt = true;
        if let Err(error) = sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut *connection)
            .await
        {
            let error = error::from_sqlx(error, Stage::BeforeCommit);
            self.in_doubt = !is_busy(&error);
            return Err(error);
        }
        let mut step = Step {
            connection,
            scope: Scope {
                namespace: &self.config.namespace,
                liveness: &self.liveness,
                now: Now::read()?,
            },
            in_doubt: &mut self.in_doubt,
        };
        if caller.is_gone() {
            step.roll_back().await;
            return Err(error::unavailable("the request was withdrawn"));
        }
        caller.begins();
        Ok(step)
    }

    /// Begins a reading step, which is one statement.
    pub(crate) async fn read(&mut self) -> Result<Step<'_>, BackendError> {
        self.ready().await?;
        let Some(database) = &mut self.database else {
            return Err(error::unavailable("the database is not open"));
        };
        Ok(Step {
            scope: Scope {
                namespace: &self.config.namespace,
                liveness: &self.liveness,
                now: Now::read()?,
            },
            connection: &mut database.connection,
            in_doubt: &mut self.in_doubt,
        })
    }

    /// Closes a connection whose transaction may still be open, because it would keep everybody
    /// from writing. The closing rolls back.
    pub(crate) async fn resolve_doubt(&mut self) {
        if self.in_doubt {
            self.close().await;
        }
    }

    /// Closes the connection; the next step opens another.
    pub(crate) async fn close(&mut self) {
        self.in_doubt = false;
        if let Some(database) = self.database.take()
            && let Err(error) = database.connection.close().await
        {
            tracing::debug!(%error, "the database connection did not close in order");
        }
    }
}

fn is_busy(error: &BackendError) -> bool {
    use std::error::Error;
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<sqlx::Error>())
        .and_then(sqlx::Error::as_database_error)
        .and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| code & 0xFF == 5)
}

impl Step<'_> {
    /// Ends a writing step: commits what it did, or rolls back if it failed.
    ///
    /// # Errors
    ///
    /// The step's own error; or that COMMIT failed, and then the effect is unknown.
    pub(crate) async fn finish<T>(
        mut self,
        outcome: Result<T, BackendError>,
    ) -> Result<Reply<T>, BackendError> {
        match outcome {
            Ok(value) => {
                sqlx::query("COMMIT")
                    .execute(&mut *self.connection)
                    .await
                    .map_err(|error| error::from_sqlx(error, Stage::Commit))?;
                *self.in_doubt = false;
                Ok(self.answer(value))
            }
            Err(error) => {
                self.roll_back().await;
                Err(error)
            }
        }
    }

    /// The answer of a reading step.
    pub(crate) fn answer<T>(&self, value: T) -> Reply<T> {
        Reply::at(self.scope.now.store_time(), value)
    }

    async fn roll_back(&mut self) {
        // If it fails, the doubt stays, and the connection is closed: that rolls back too.
        let ended = sqlx::query("ROLLBACK").execute(&mut *self.connection).await;
        *self.in_doubt = ended.is_err();
    }
}

/// A statement inside a step failed: COMMIT was not asked for.
pub(crate) fn failed(error: sqlx::Error) -> BackendError {
    error::from_sqlx(error, Stage::BeforeCommit)
}
