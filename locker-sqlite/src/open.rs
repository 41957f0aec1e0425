//! Opening the file, creating it, and refusing what is not ours.
//!
//! The file is never opened but through SQLite: closing a descriptor of our own would drop the
//! POSIX locks that SQLite holds on it in this process, for all connections.

use crate::boot::Boot;
use crate::config::Config;
use crate::error::{self, Stage};
use crate::place::{FileId, beside};
use locker_core::{BackendError, ErrorKind};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use std::path::Path;
use std::time::Duration;

/// "LOCK" in the header of the file: whose database it is.
const APPLICATION_ID: i64 = 0x4C4F_434B;
/// The version of the schema that this release writes.
const VERSION: i64 = 1;
const SCHEMA: &str = include_str!("../sql/schema-1.sql");

/// A connection, and the file that it is to.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) connection: SqliteConnection,
    pub(crate) file: FileId,
}

/// What was found in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Nothing,
    Ours,
}

/// Opens the database, and creates it if there is none.
pub(crate) async fn database(config: &Config) -> Result<Database, BackendError> {
    refuse_remains(&config.path)?;
    inspect_untouched(config).await?;
    let mut database = connect_surely(config).await?;
    match prepare(&mut database.connection, &config.path).await {
        Ok(()) => Ok(database),
        Err(error) => {
            database.connection.close().await.ok();
            Err(error)
        }
    }
}

/// A database whose main file was removed alone. Its log and its shared memory may still be in use,
/// and a new database under the same name would be mixed up with them.
fn refuse_remains(path: &Path) -> Result<(), BackendError> {
    let (log, memory) = (beside(path, "-wal"), beside(path, "-shm"));
    // The main file is looked at last: whoever creates the store makes it first.
    let remains = log.exists() || memory.exists();
    if remains && !path.exists() {
        return Err(error::config(format!(
            "{} is gone but its companions are not: it was removed while in use; stop what uses \
             it, then remove {} and {}",
            path.display(),
            log.display(),
            memory.display()
        )));
    }
    Ok(())
}

/// Looks into an existing file without the right to write, so that a file that is refused stays as
/// it is: no companions are made, and its log is not even checkpointed.
async fn inspect_untouched(config: &Config) -> Result<(), BackendError> {
    let empty = |path: &Path| std::fs::metadata(path).map_or(true, |file| file.len() == 0);
    if empty(&config.path) {
        return Ok(());
    }
    // `immutable` looks at nothing but the main file. It may be misled by what others are writing,
    // but not into taking their database for ours; what it cannot read is left to the next look.
    let looks = [
        options(config).read_only(true).immutable(true),
        options(config).read_only(true),
    ];
    let log = beside(&config.path, "-wal");
    let worth = if empty(&log) { 1 } else { 2 };
    for look in looks.into_iter().take(worth) {
        let inspected = async {
            let mut connection = look.connect().await?;
            let found = content(&mut connection).await;
            connection.close().await.ok();
            found
        };
        match inspected.await {
            Ok(found) => {
                found.judge(&config.path)?;
            }
            // A file that only a writer can read (with a log to be recovered) is left to the writer.
            Err(error) => match error::from_sqlx(error, Stage::Opening) {
                error if error.kind() == ErrorKind::Config => {
                    return Err(not_a_database(config, error));
                }
                _ => {}
            },
        }
    }
    Ok(())
}

fn not_a_database(config: &Config, cause: BackendError) -> BackendError {
    error::config(format!(
        "{} is not a SQLite database; give the store another path",
        config.path.display()
    ))
    .with_source(cause)
}

/// Connects, and knows to which file: the path led to the same one before and after. A file that
/// this very call created is opened a second time for that.
async fn connect_surely(config: &Config) -> Result<Database, BackendError> {
    const ATTEMPTS: u32 = 4;
    let identity =
        || FileId::at(&config.path).map_err(|cause| error::opening_file(&config.path, &cause));
    for _ in 0..ATTEMPTS {
        let before = identity()?;
        let mut connection = options(config)
            .create_if_missing(true)
            .connect()
            .await
            .map_err(opening)?;
        if before.is_none() {
            // SQLite creates the file when it is first looked into.
            content(&mut connection).await.map_err(opening)?;
        }
        match (before, identity()?) {
            (Some(before), Some(after)) if before == after => {
                return Ok(Database {
                    connection,
                    file: before,
                });
            }
            _ => connection.close().await.map_err(opening)?,
        }
    }
    Err(error::unavailable(format!(
        "{} is being replaced again and again",
        config.path.display()
    )))
}

fn options(config: &Config) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(&config.path)
        .busy_timeout(config.busy_timeout)
        .statement_cache_capacity(64)
        .thread_name(|id| format!("locker-sqlite-{id}"))
        .disable_statement_logging()
}

pub(crate) fn opening(error: sqlx::Error) -> BackendError {
    error::from_sqlx(error, Stage::Opening)
}

/// The three facts by which a file is recognised.
struct Found {
    application_id: i64,
    version: i64,
    objects: i64,
}

async fn content(connection: &mut SqliteConnection) -> Result<Found, sqlx::Error> {
    let row = sqlx::query(
        "SELECT (SELECT application_id FROM pragma_application_id), \
                (SELECT user_version FROM pragma_user_version), \
                (SELECT count(*) FROM sqlite_schema)",
    )
    .fetch_one(connection)
    .await?;
    Ok(Found {
        application_id: row.try_get(0)?,
        version: row.try_get(1)?,
        objects: row.try_get(2)?,
    })
}

impl Found {
    fn judge(&self, path: &Path) -> Result<Content, BackendError> {
        let shown = path.display();
        match *self {
            Self {
                application_id: 0,
                version: 0,
                objects: 0,
            } => Ok(Content::Nothing),
            Self {
                application_id: APPLICATION_ID,
                version: VERSION,
                ..
            } => Ok(Content::Ours),
            Self {
                application_id: APPLICATION_ID,
                version,
                ..
            } if version > VERSION => Err(error::config(format!(
                "{shown} was written by a newer release (its version is {version}, this release \
                 knows {VERSION}); upgrade this program, or give the store another path"
            ))),
            Self {
                application_id: APPLICATION_ID,
                version,
                ..
            } => Err(error::config(format!(
                "{shown} says it is of version {version}, which never was; give the store another \
                 path"
            ))),
            Self { .. } => Err(error::config(format!(
                "{shown} is the database of another application; give the store another path"
            ))),
        }
    }
}

/// Sets up the connection, and the schema if there is none. Twenty processes may do this at once.
async fn prepare(connection: &mut SqliteConnection, path: &Path) -> Result<(), BackendError> {
    let found = content(connection).await.map_err(opening)?;
    found.judge(path)?;
    write_ahead(connection).await.map_err(opening)?;
    // NORMAL: a commit survives the death of every process. It may not survive a power loss, which
    // ends the boot and thereby every lock; tokens follow the clock.
    for pragma in [
        "PRAGMA synchronous = NORMAL",
        "PRAGMA trusted_schema = OFF",
        "PRAGMA journal_size_limit = 4194304",
    ] {
        sqlx::query(pragma)
            .execute(&mut *connection)
            .await
            .map_err(opening)?;
    }
    if found.judge(path)? == Content::Ours {
        return Ok(());
    }
    transaction(connection).await?;
    // Somebody else may have been here first.
    let created = match content(connection).await.map_err(opening) {
        Ok(found) => match found.judge(path) {
            Ok(Content::Nothing) => create(connection).await,
            Ok(Content::Ours) => Ok(()),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    finish(connection, created).await
}

/// Switches the file to the write-ahead log, which readers and one writer share without waiting.
async fn write_ahead(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const ATTEMPTS: u32 = 200;
    let mut attempt = 0;
    loop {
        let switched = sqlx::query("PRAGMA journal_mode = WAL")
            .fetch_one(&mut *connection)
            .await;
        let busy = |error: &sqlx::Error| {
            let code = error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code);
            let code = code.and_then(|code| code.parse::<i32>().ok());
            matches!(code.map(|code| code & 0xFF), Some(5 | 6))
        };
        match switched {
            Err(error) if busy(&error) && attempt < ATTEMPTS => attempt += 1,
            answer => return answer.map(|_| ()),
        }
        // The switch itself does not wait for another creator; a write transaction does, and so
        // does a moment of rest when it is the readers that are in the way.
        match sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut *connection)
            .await
        {
            Ok(_) => {
                sqlx::query("ROLLBACK").execute(&mut *connection).await?;
            }
            Err(error) if busy(&error) => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn create(connection: &mut SqliteConnection) -> Result<(), BackendError> {
    let boot = Boot::current()?;
    sqlx::raw_sql(SCHEMA)
        .execute(&mut *connection)
        .await
        .map_err(opening)?;
    sqlx::query("INSERT INTO clock (one, boot, time_namespace) VALUES (1, ?1, ?2)")
        .bind(&boot.id)
        .bind(&boot.time_namespace)
        .execute(&mut *connection)
        .await
        .map_err(opening)?;
    // Both are part of the transaction: a file is ours and whole, or empty.
    for pragma in [
        "PRAGMA application_id = 0x4C4F434B",
        "PRAGMA user_version = 1",
    ] {
        sqlx::query(pragma)
            .execute(&mut *connection)
            .await
            .map_err(opening)?;
    }
    Ok(())
}

pub(crate) async fn transaction(connection: &mut SqliteConnection) -> Result<(), BackendError> {
    let begun = sqlx::query("BEGIN IMMEDIATE").execute(connection).await;
    begun.map(|_| ()).map_err(opening)
}

pub(crate) async fn finish(
    connection: &mut SqliteConnection,
    outcome: Result<(), BackendError>,
) -> Result<(), BackendError> {
    let end = if outcome.is_ok() {
        "COMMIT"
    } else {
        "ROLLBACK"
    };
    let ended = sqlx::query(end).execute(connection).await;
    outcome?;
    ended.map(|_| ()).map_err(opening)
}
