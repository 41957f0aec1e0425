//! The one mapping of Postgres's errors to the error of the contract.
//!
//! What a caller must know first is whether the request may have had an effect. A request is one
//! statement that is its own transaction. An error of severity ERROR is the server's word that it
//! rolled that transaction back, so the effect is certain. Everything else that comes after the
//! request has left (a session that is ended, a connection that breaks) may have come after the
//! commit.

use locker_core::{BackendError, Effect, ErrorKind};
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use std::io;

/// How far a request had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The connection is being opened or examined: nothing was asked for yet.
    Opening,
    /// The request may have left.
    Sent,
}

/// The configuration is wrong; nothing was done.
pub(crate) fn config(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Config, Effect::NotApplied, message)
}

/// It cannot be done now; nothing was done.
pub(crate) fn unavailable(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, message)
}

/// Somebody else is changing the row; nothing was done.
pub(crate) fn busy() -> BackendError {
    BackendError::new(
        ErrorKind::Busy,
        Effect::NotApplied,
        "another session is changing the row of this key",
    )
}

/// Many wait for rows that somebody else has locked; nothing was sent.
pub(crate) fn crowded() -> BackendError {
    BackendError::new(
        ErrorKind::Busy,
        Effect::NotApplied,
        "others wait already for rows that another session has locked",
    )
}

/// What is found in a row cannot be read; nothing was done to it.
pub(crate) fn corrupt(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Corrupt, Effect::NotApplied, message)
}

/// Maps an error of the client library.
pub(crate) fn from_sqlx(error: sqlx::Error, stage: Stage) -> BackendError {
    let (kind, sure, message) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            let (kind, message) = of_code(&code);
            (kind, rolled_back(&**database), message)
        }
        // A certificate that is not accepted will not be accepted the next time.
        sqlx::Error::Io(cause)
            if stage == Stage::Opening && cause.kind() == io::ErrorKind::InvalidData =>
        {
            (
                ErrorKind::Config,
                true,
                "the server's certificate is not accepted as configured",
            )
        }
        sqlx::Error::Io(_) => (
            ErrorKind::Unavailable,
            false,
            "the server could not be reached, or the connection broke",
        ),
        sqlx::Error::Tls(_) => (
            ErrorKind::Config,
            false,
            "the connection could not be encrypted as configured",
        ),
        sqlx::Error::Configuration(_)
        | sqlx::Error::ConfigFile(_)
        | sqlx::Error::InvalidArgument(_) => (
            ErrorKind::Config,
            true,
            "the server cannot be connected to as configured",
        ),
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::BeginFailed => (
            ErrorKind::Unavailable,
            true,
            "the pool that was handed in gave no connection",
        ),
        // Arguments that cannot be encoded were never sent.
        sqlx::Error::Encode(_) => (
            ErrorKind::Rejected,
            true,
            "the request cannot be put into the server's types",
        ),
        // An answer of another form: of another version of the functions, or of a connection that
        // gave this client the answer to somebody else's request.
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::RowNotFound
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::Protocol(_) => (
            ErrorKind::Unavailable,
            false,
            "the server's answer does not have the form that was expected",
        ),
        sqlx::Error::WorkerCrashed
        | sqlx::Error::AnyDriverError(_)
        | sqlx::Error::InvalidSavePointStatement => {
            (ErrorKind::Unavailable, false, "the client failed")
        }
        // The enum may grow; an unknown failure is one that may pass.
        _ => (ErrorKind::Unavailable, false, "the client failed"),
    };
    let effect = if sure || stage == Stage::Opening {
        Effect::NotApplied
    } else {
        Effect::Unknown
    };
    BackendError::new(kind, effect, message).with_source(error)
}

/// Whether the server says that it rolled the transaction back.
fn rolled_back(error: &dyn sqlx::error::DatabaseError) -> bool {
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else {
        return false;
    };
    // 40003 is "statement completion unknown", the one that says that it does not say.
    matches!(error.severity(), PgSeverity::Error) && error.code() != "40003"
}

/// The SQLSTATE codes, by class, and the single codes that differ from their class. See
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn of_code(code: &str) -> (ErrorKind, &'static str) {
    use ErrorKind::{Busy, Config, Corrupt, Denied, Rejected, Unavailable};
    const MISSING: &str = "the schema of the locker is missing, or older than this release wants; \
                           `locker migrate` creates and updates it";
    match code {
        // Isolation, refused by our own functions.
        "LK001" => (
            Config,
            "the locker works under READ COMMITTED only; set default_transaction_isolation for its role",
        ),
        "25006" => (
            Unavailable,
            "the server takes no writes: it is a standby, or read-only",
        ),
        "25P02" | "25P03" => (Unavailable, "the server ended the transaction"),
        // A named statement that another session of a pooler prepared, or did not.
        "26000" | "42P05" => (
            Unavailable,
            "a prepared statement is not where it was left: is there a connection pooler between?",
        ),
        "3D000" => (Config, "the database does not exist"),
        "40001" | "40P01" => (Busy, "the server chose this request to resolve a conflict"),
        "40003" => (Unavailable, "the server does not know whether it committed"),
        "42501" => (
            Denied,
            "the role has no right to call the locker's functions; its README has the recipe",
        ),
        "3F000" | "42P01" | "42883" | "42703" | "42704" => (Config, MISSING),
        "53300" => (Unavailable, "the server has no connection left"),
        "55P03" | "55006" => (Busy, "a row stayed locked by another session"),
        "57014" => (Busy, "the server cancelled the statement"),
        "57P04" => (Config, "the database was dropped"),
        "XX001" | "XX002" => (Corrupt, "the server finds its data damaged"),
        // Tokens of a key would pass the greatest number.
        "22003" => (Corrupt, "a number in the record is out of range"),
        "72000" => (Busy, "the server forgot an old snapshot"),
        _ => match code.get(..2).unwrap_or_default() {
            "08" => (Unavailable, "the connection failed"),
            "28" => (
                Denied,
                "the server does not accept the role or its password",
            ),
            "53" => (Unavailable, "the server has run out of a resource"),
            "57" => (Unavailable, "the server is starting or shutting down"),
            "03" | "0A" | "0B" | "0F" | "0L" | "0P" | "0Z" | "20" | "21" | "22" | "23" | "24"
            | "25" | "27" | "2B" | "2D" | "2F" | "34" | "38" | "39" | "3B" | "40" | "42" | "44"
            | "54" | "55" | "HV" | "P0" => (Rejected, "the server refused the request"),
            // System errors (58), its own configuration (F0) and itself (XX); and what is new is taken
            // for transient.
            _ => (Unavailable, "the server failed"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{Busy, Config, Corrupt, Denied, Rejected, Unavailable};

    /// Every class of the server's appendix, and every code that differs from its class.
    #[test]
    fn every_class_has_its_kind() {
        let table: &[(ErrorKind, &[&str])] = &[
            (
                Unavailable,
                &[
                    "08000", "08003", "08006", "08001", "08004", "08007", "08P01", "25006",
                    "25P02", "25P03", "26000", "40003", "42P05", "53000", "53100", "53200",
                    "53300", "53400", "57000", "57P01", "57P02", "57P03", "57P05", "58000",
                    "58030", "58P01", "58P02", "F0000", "F0001", "XX000", "ZZ999", "",
                ],
            ),
            (
                Busy,
                &["40001", "40P01", "55P03", "55006", "57014", "72000"],
            ),
            (Denied, &["28000", "28P01", "42501"]),
            (Corrupt, &["22003", "XX001", "XX002"]),
            (
                Config,
                &[
                    "LK001", "3D000", "3F000", "42P01", "42883", "42703", "42704", "57P04",
                ],
            ),
            (
                Rejected,
                &[
                    "03000", "0A000", "0B000", "0F000", "0L000", "0P000", "0Z000", "20000",
                    "21000", "22000", "22021", "22P02", "23505", "24000", "25000", "25001",
                    "27000", "2B000", "2D000", "2F000", "34000", "38000", "39000", "3B000",
                    "40000", "40002", "42000", "42601", "42804", "44000", "54000", "54001",
                    "55000", "HV000", "P0001",
                ],
            ),
        ];
        for (kind, codes) in table {
            for code in *codes {
                assert_eq!(of_code(code).0, *kind, "{code}");
            }
        }
    }

    /// Of what breaks after it was sent, nothing is known; of what was never sent, everything.
    #[test]
    fn a_broken_connection_leaves_the_effect_unknown_only_once_the_request_has_left() {
        for (stage, effect) in [
            (Stage::Opening, Effect::NotApplied),
            (Stage::Sent, Effect::Unknown),
        ] {
            for error in [
                sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
                sqlx::Error::Protocol("nonsense".to_owned()),
                sqlx::Error::WorkerCrashed,
            ] {
                let error = from_sqlx(error, stage);
                assert_eq!(error.kind(), Unavailable, "{error:?}");
                assert_eq!(error.effect(), effect, "{error:?}");
            }
        }
        let unsent = from_sqlx(sqlx::Error::Encode("too long".into()), Stage::Sent);
        assert_eq!(unsent.effect(), Effect::NotApplied);
    }
}
