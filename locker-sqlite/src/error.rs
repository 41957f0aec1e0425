//! The one mapping of SQLite's errors to the error of the contract.
//!
//! What a caller must know first is whether the step may have had an effect. A step is one
//! transaction, so the answer depends on one thing only: **was COMMIT asked for?** Whatever fails
//! before is rolled back, by us, by SQLite, or by the closing of the connection. Of a COMMIT that
//! fails nothing is assumed: its frame may lie in the log although the answer was an error.

use locker_core::{BackendError, Effect, ErrorKind};
use std::io;
use std::path::Path;

/// How far the step had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The file is being opened.
    Opening,
    /// COMMIT was not yet asked for.
    BeforeCommit,
    /// COMMIT itself failed.
    Commit,
}

/// The configuration is wrong; nothing was done.
pub(crate) fn config(message: String) -> BackendError {
    BackendError::new(ErrorKind::Config, Effect::NotApplied, message)
}

/// The rights do not suffice; nothing was done.
pub(crate) fn denied(message: String) -> BackendError {
    BackendError::new(ErrorKind::Denied, Effect::NotApplied, message)
}

/// It cannot be done now; nothing was done.
pub(crate) fn unavailable(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, message)
}

/// What is found in the file cannot be read; nothing was done to it.
pub(crate) fn corrupt(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Corrupt, Effect::NotApplied, message)
}

/// A file beside the database cannot be opened. The caller adds the cause as the source.
pub(crate) fn opening_file(path: &Path, cause: &io::Error) -> BackendError {
    let shown = path.display();
    match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => denied(format!(
            "{shown} cannot be opened for writing by this user; every process of the store writes it"
        )),
        io::ErrorKind::NotFound => config(format!("the folder of {shown} does not exist")),
        _ => unavailable(format!("{shown} cannot be opened")),
    }
}

/// Maps an error of the client library.
pub(crate) fn from_sqlx(error: sqlx::Error, stage: Stage) -> BackendError {
    let (kind, message) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse().ok());
            of_code(code.unwrap_or(1))
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) => {
            (ErrorKind::Unavailable, "the database could not be reached")
        }
        sqlx::Error::WorkerCrashed => (
            ErrorKind::Unavailable,
            "the thread of the database connection has ended",
        ),
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed => (
            ErrorKind::Unavailable,
            "the database connection is not usable",
        ),
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. } => (
            ErrorKind::Corrupt,
            "what the database holds does not have the form that was expected",
        ),
        sqlx::Error::Configuration(_) | sqlx::Error::ConfigFile(_) => (
            ErrorKind::Config,
            "the database cannot be opened as configured",
        ),
        sqlx::Error::InvalidArgument(_)
        | sqlx::Error::Encode(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::AnyDriverError(_)
        | sqlx::Error::InvalidSavePointStatement => {
            (ErrorKind::Rejected, "the database refused the request")
        }
        // The enum may grow; an unknown failure is one that may pass.
        _ => (ErrorKind::Unavailable, "the database failed"),
    };
    let effect = match stage {
        Stage::Opening | Stage::BeforeCommit => Effect::NotApplied,
        Stage::Commit => Effect::Unknown,
    };
    BackendError::new(kind, effect, message).with_source(error)
}

/// All primary result codes of SQLite; the extended ones say more only to people, with one
/// exception. See <https://www.sqlite.org/rescode.html>.
fn of_code(extended: i32) -> (ErrorKind, &'static str) {
    use ErrorKind::{Busy, Config, Corrupt, Denied, Rejected, Unavailable};
    const READONLY_DBMOVED: i32 = 8 | (4 << 8);
    if extended == READONLY_DBMOVED {
        return (Unavailable, "the database file was removed or replaced");
    }
    match extended & 0xFF {
        // BUSY, LOCKED: another writer.
        5 | 6 => (
            Busy,
            "another process is writing the database and did not finish within the busy timeout",
        ),
        // NOMEM, INTERRUPT, ABORT, PROTOCOL, SCHEMA: they pass.
        7 => (Unavailable, "there is not enough memory"),
        4 | 9 | 15 | 17 => (Unavailable, "the database gave up this attempt"),
        10 => (Unavailable, "the disk failed to read or write"),
        13 => (Unavailable, "the disk is full"),
        // CANTOPEN: no descriptor is left, or somebody removes folders. Missing rights were looked for
        // before anything was opened.
        14 => (Unavailable, "a file of the database cannot be opened"),
        // PERM, READONLY, AUTH.
        3 | 8 | 23 => (Denied, "the database is read-only for this user"),
        // CORRUPT, FORMAT.
        11 | 24 => (
            Corrupt,
            "the database file is damaged; stop every process that uses it and restore or remove it",
        ),
        26 => (
            Config,
            "the file is not a SQLite database; give the store another path",
        ),
        // NOLFS, TOOBIG, CONSTRAINT, MISMATCH, MISUSE, RANGE, ERROR, INTERNAL, NOTFOUND, EMPTY.
        22 | 18 | 19 | 20 | 21 | 25 | 1 | 2 | 12 | 16 => {
            (Rejected, "the database refused the request")
        }
        // NOTICE, WARNING, ROW and DONE are no failures; what is new is taken for transient.
        _ => (Unavailable, "the database failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_primary_code_has_its_kind() {
        let table = [
            (ErrorKind::Unavailable, &[4, 7, 9, 10, 13, 14, 15, 17][..]),
            (ErrorKind::Busy, &[5, 6]),
            (ErrorKind::Denied, &[3, 8, 23]),
            (ErrorKind::Corrupt, &[11, 24]),
            (ErrorKind::Config, &[26]),
            (ErrorKind::Rejected, &[1, 2, 12, 16, 18, 19, 20, 21, 22, 25]),
        ];
        let mut seen = 0;
        for (kind, codes) in table {
            for code in codes {
                for extended in [0, 1, 7] {
                    let found = of_code(code | (extended << 8)).0;
                    assert_eq!(found, kind, "code {code}");
                }
                seen += 1;
            }
        }
        assert_eq!(seen, 26);
        // The database was moved: not a matter of rights.
        assert_eq!(of_code(1032).0, ErrorKind::Unavailable);
    }

    #[test]
    fn only_a_failing_commit_leaves_the_effect_unknown() {
        for (stage, effect) in [
            (Stage::Opening, Effect::NotApplied),
            (Stage::BeforeCommit, Effect::NotApplied),
            (Stage::Commit, Effect::Unknown),
        ] {
            assert_eq!(
                from_sqlx(sqlx::Error::WorkerCrashed, stage).effect(),
                effect
            );
        }
    }

    async fn fail(connection: &mut sqlx::SqliteConnection, sql: &'static str) -> sqlx::Error {
        sqlx::raw_sql(sql).execute(connection).await.unwrap_err()
    }

    /// Errors that SQLite itself makes, not numbers that we believe it makes.
    #[tokio::test]
    async fn real_failures_have_their_kind() {
        use sqlx::ConnectOptions;
        use sqlx::sqlite::SqliteConnectOptions;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let options = || {
            SqliteConnectOptions::new()
                .filename(&path)
                .busy_timeout(std::time::Duration::from_millis(1))
        };
        let kind = |error| from_sqlx(error, Stage::BeforeCommit).kind();

        let missing = options().connect().await.unwrap_err();
        assert_eq!(kind(missing), ErrorKind::Unavailable);
        let mut writer = options().create_if_missing(true).connect().await.unwrap();
        let setup = "PRAGMA journal_mode = WAL; CREATE TABLE t (x INTEGER UNIQUE) STRICT; \
                     INSERT INTO t VALUES (1);";
        sqlx::raw_sql(setup).execute(&mut writer).await.unwrap();

        let mut other = options().connect().await.unwrap();
        let begin = "BEGIN IMMEDIATE";
        sqlx::raw_sql(begin).execute(&mut writer).await.unwrap();
        let busy = fail(&mut other, begin).await;
        assert_eq!(kind(busy), ErrorKind::Busy);
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut writer)
            .await
            .unwrap();

        let mut reader = options().read_only(true).connect().await.unwrap();
        let readonly = fail(&mut reader, "INSERT INTO t VALUES (2)").await;
        assert_eq!(kind(readonly), ErrorKind::Denied);

        let full = "PRAGMA max_page_count = 3; CREATE TABLE big (x); \
                    INSERT INTO big VALUES (zeroblob(100000));";
        assert_eq!(kind(fail(&mut other, full).await), ErrorKind::Unavailable);
        for refused in [
            "INSERT INTO t VALUES (1)",
            "INSERT INTO t VALUES (x'00')",
            "SELECT nonsense",
            "COMMIT",
        ] {
            let error = fail(&mut other, refused).await;
            assert_eq!(kind(error), ErrorKind::Rejected, "{refused}");
        }
        let row = sqlx::query("SELECT 'text'").fetch_one(&mut other).await;
        let decode = sqlx::Row::try_get::<i64, _>(&row.unwrap(), 0).unwrap_err();
        assert_eq!(kind(decode), ErrorKind::Corrupt);

        let letter = folder.path().join("letter");
        std::fs::write(&letter, "dear aunt, ".repeat(500)).unwrap();
        let mut letter = options().filename(&letter).connect().await.unwrap();
        let foreign = fail(&mut letter, "SELECT * FROM t").await;
        assert_eq!(kind(foreign), ErrorKind::Config);
    }
}
