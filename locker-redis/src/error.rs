//! The one mapping of the client's errors to the error of the contract.
//!
//! What a caller must know first is whether the request may have had an effect. A server that
//! *refuses* has done nothing; a connection that broke after the request was written says nothing
//! about it. On a cluster there is one thing more: the client follows redirects and sends a request
//! again when a node is gone, and shows the error of the last attempt only. What stands behind it
//! may have been executed at the first one, so there a refusal is no proof.

#[cfg(test)]
mod tests;

use crate::url::{self, Address};
use locker_core::{BackendError, Effect, ErrorKind};
use redis::{ErrorKind as Kind, RedisError, ServerErrorKind};
use std::error::Error;
use std::io;
use std::sync::Arc;

/// How far the request had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The connection is being opened: nothing was asked for yet.
    Connecting,
    /// The request was sent once, on one connection.
    Once,
    /// The request may have been sent more than once (on a cluster).
    Repeated,
}

/// The configuration is wrong; nothing was done.
pub(crate) fn config(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Config, Effect::NotApplied, message)
}

/// It cannot be done now; nothing was done.
pub(crate) fn unavailable(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, message)
}

/// What is found in the store cannot be read; nothing was done to it.
pub(crate) fn corrupt(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Corrupt, Effect::NotApplied, message)
}

/// One of several connections broke while requests were in flight on it, and is replaced where it
/// is. Of the kinds that may be asked again this is the one that leaves the others open: they are
/// sound, and to close them would take the answers from all who wait there.
pub(crate) fn broken_line(cause: RedisError) -> BackendError {
    BackendError::new(
        ErrorKind::Busy,
        Effect::Unknown,
        "the connection to one primary of the cluster broke while the request was under way",
    )
    .unanswered()
    .with_source(cause)
}

/// One node of a cluster is silent while others answer. They are sound, so it is of the same kind as
/// [`broken_line`].
pub(crate) fn straggler() -> BackendError {
    BackendError::new(
        ErrorKind::Busy,
        Effect::Unknown,
        "the primary of this lock has not answered while others have",
    )
    .unanswered()
}

/// What one primary of a cluster says, or what the client of the cluster says of one key, where others can
/// be asked. They are sound, so it is of the same kind as [`broken_line`]; and it is an answer, if the
/// primary has said it.
pub(crate) fn of_one_primary(cause: BackendError) -> BackendError {
    if !cause.kind().breaks_connection() {
        return cause;
    }
    let text = "one primary of the cluster does not serve now";
    let error = BackendError::new(ErrorKind::Busy, cause.effect(), text);
    let error = if cause.is_unanswered() {
        error.unanswered()
    } else {
        error
    };
    error.with_source(cause)
}

/// A process is dead by the word of a node that others do not call the primary of its slot, or of one that
/// nobody knows. That is no verdict.
pub(crate) fn unconfirmed() -> BackendError {
    BackendError::new(
        ErrorKind::Busy,
        Effect::NotApplied,
        "the node that calls the process dead may have been replaced",
    )
}

/// The server answered something that this store's own scripts never answer.
pub(crate) fn unexpected(what: &str) -> BackendError {
    BackendError::new(
        ErrorKind::Rejected,
        Effect::Unknown,
        format!("the server's answer to {what} has another form than was expected"),
    )
}

/// What a server that does not know a command says before it repeats the arguments, and the password
/// among them.
const ECHO: &str = "with args beginning with";

/// Maps an error of the client library.
pub(crate) fn from_redis(error: RedisError, stage: Stage) -> BackendError {
    let code = error.code().map(str::to_owned);
    let detail = error.detail().unwrap_or_default().to_owned();
    let (kind, effect, message) = match error.kind() {
        Kind::Server(_) | Kind::Extension => {
            let refused = refused(code.as_deref().unwrap_or_default(), &detail, stage);
            return if detail.contains(ECHO) {
                refused
            } else {
                refused.with_source(error)
            };
        }
        Kind::AuthenticationFailed => (
            ErrorKind::Denied,
            Effect::NotApplied,
            "the server does not accept the user and the password",
        ),
        Kind::Io => return from_io(error, stage),
        Kind::Parse | Kind::UnexpectedReturnType => (
            ErrorKind::Unavailable,
            Effect::Unknown,
            "the server does not speak the protocol of Redis",
        ),
        // Certificates that cannot be read, and the refusals of the TLS library.
        Kind::Client => (
            ErrorKind::Config,
            Effect::NotApplied,
            "the client refused the configuration",
        ),
        Kind::InvalidClientConfig | Kind::EmptySentinelList => (
            ErrorKind::Config,
            Effect::NotApplied,
            "the store cannot be opened as configured",
        ),
        Kind::MasterNameNotFoundBySentinel => (
            ErrorKind::Unavailable,
            Effect::NotApplied,
            "the sentinels know no reachable server of this name that is a master",
        ),
        Kind::NoValidReplicasFoundBySentinel => (
            ErrorKind::Unavailable,
            Effect::NotApplied,
            "the sentinels know no server that can be used",
        ),
        Kind::ClusterConnectionNotFound => (
            ErrorKind::Unavailable,
            Effect::Unknown,
            "no node of the cluster can be reached",
        ),
        Kind::RESP3NotSupported => (
            ErrorKind::Config,
            Effect::NotApplied,
            "the server is older than Redis 6.2",
        ),
        // The enum may grow; an unknown failure is one that may pass.
        _ => (
            ErrorKind::Unavailable,
            Effect::Unknown,
            "the client of the store failed",
        ),
    };
    let effect = match stage {
        Stage::Connecting => Effect::NotApplied,
        Stage::Once => effect,
        Stage::Repeated => Effect::Unknown,
    };
    let nobody_answers = error.kind() == Kind::ClusterConnectionNotFound;
    let mapped = BackendError::new(kind, effect, message).with_source(error);
    if nobody_answers {
        mapped.unanswered()
    } else {
        mapped
    }
}

fn from_io(error: RedisError, stage: Stage) -> BackendError {
    let effect = match stage {
        Stage::Connecting => Effect::NotApplied,
        Stage::Once | Stage::Repeated => Effect::Unknown,
    };
    let (kind, message) = if error.is_timeout() {
        (
            ErrorKind::Timeout,
            "the store did not answer in time, and its connection was given up",
        )
    } else if stage == Stage::Connecting && is_tls(&error) {
        (
            ErrorKind::Config,
            "no TLS connection: the server's certificate is not accepted, or the server speaks no \
             TLS",
        )
    } else if error.is_connection_refusal() {
        (
            ErrorKind::Unavailable,
            "nobody listens at the address of the store",
        )
    } else {
        (
            ErrorKind::Unavailable,
            "the connection to the store is broken",
        )
    };
    BackendError::new(kind, effect, message)
        .unanswered()
        .with_source(error)
}

/// Whether the handshake failed for a reason that will not pass. The TLS library says so by an I/O
/// error of this kind, which the client hides in a shared pointer.
fn is_tls(error: &RedisError) -> bool {
    type Hidden = Arc<dyn Error + Send + Sync>;
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<Hidden>());
    let io = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// Maps the text of a server's refusal: the error of a request, or the error of one member of a
/// script, which the script has caught.
pub(crate) fn from_text(text: &str, stage: Stage) -> BackendError {
    let text = without_script(text);
    let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
    refused(code, detail, stage)
}

/// Before Redis 7 an error inside a script begins with where it was raised.
fn without_script(text: &str) -> &str {
    let Some(rest) = text
        .strip_prefix("@user_script: ")
        .or_else(|| text.strip_prefix("user_script:"))
    else {
        return text.strip_prefix('-').unwrap_or(text);
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix(':').unwrap_or(rest).trim_start();
    rest.strip_prefix('-').unwrap_or(rest)
}

fn refused(code: &str, detail: &str, stage: Stage) -> BackendError {
    let known = match code {
        "ERR" => of_sentence(detail),
        _ => of_code(code),
    };
    let unknown = "the store refused the request in words that are not known";
    let (kind, message) = known.unwrap_or(match code {
        // Servers say so much of what they refuse for good that it is not asked again.
        "ERR" => (ErrorKind::Rejected, "the server refused the request"),
        // What is new is taken for something that passes.
        _ => (ErrorKind::Unavailable, unknown),
    });
    let effect = match (stage, code) {
        (Stage::Connecting, _) => Effect::NotApplied,
        // A script of ours that fails as a whole may have come to any point.
        (_, "ERR") if detail.contains("user_script") || detail.contains("Error running") => {
            Effect::Unknown
        }
        // What lies under the key was there at the first attempt as well. Nothing else is sure to
        // have been: memory fills up, and rights are taken away.
        (Stage::Repeated, _) if kind != ErrorKind::Corrupt => Effect::Unknown,
        // Perhaps no server has said it, but something between that has lost the server's answer: a proxy
        // says so under the code that servers use for anything.
        _ if known.is_none() => Effect::Unknown,
        _ => Effect::NotApplied,
    };
    BackendError::new(kind, effect, message)
}

/// The codes of Redis 6.2 and later that can reach a client of this store, and those of sentinels.
fn of_code(code: &str) -> Option<(ErrorKind, &'static str)> {
    use ErrorKind::{Busy, Corrupt, Denied, Rejected, Unavailable};
    let known = match code {
        "LOADING" => (Unavailable, "the server is loading its data"),
        "MASTERDOWN" => (Unavailable, "the server is a replica without its master"),
        "CLUSTERDOWN" => (Unavailable, "the cluster is down, or a slot has no node"),
        "READONLY" => (Unavailable, "the server is a replica, and takes no writes"),
        "NOREPLICAS" => (
            Unavailable,
            "the server has too few replicas to take a write",
        ),
        "MISCONF" => (
            Unavailable,
            "the server cannot save to its disk, and takes no writes",
        ),
        "OOM" => (
            Unavailable,
            "the server's memory is full, and it takes nothing new",
        ),
        "MOVED" | "ASK" => (Unavailable, "the slot of the key has moved to another node"),
        "NOMASTERLINK" | "NOGOODSLAVE" | "INPROG" => (Unavailable, "the servers are failing over"),
        "NOSCRIPT" => (Unavailable, "the server has forgotten the script"),
        "BUSY" => (Busy, "the server is busy with somebody's slow script"),
        "TRYAGAIN" => (Busy, "the slot of the key is being moved"),
        "NOAUTH" => (Denied, "the server asks for a password"),
        "WRONGPASS" => (
            Denied,
            "the server does not accept the user and the password",
        ),
        "NOPERM" => (Denied, "the user lacks a right that the store needs"),
        "DENIED" => (
            Denied,
            "the server is in protected mode and takes local clients only",
        ),
        "WRONGTYPE" => (Corrupt, "something that is no lock lies under the key"),
        "CORRUPT" => (Corrupt, "what lies under the key cannot be read"),
        "CROSSSLOT" | "EXECABORT" | "NOTBUSY" | "NOSUB" | "NOPROTO" | "UNKILLABLE" => {
            (Rejected, "the server refused the request")
        }
        _ => return None,
    };
    Some(known)
}

/// What has no code of its own but a sentence.
fn of_sentence(detail: &str) -> Option<(ErrorKind, &'static str)> {
    use ErrorKind::{Config, Denied, Rejected, Unavailable};
    let known = if detail.contains("max number of clients") {
        (Unavailable, "the server has too many clients")
    } else if detail.contains("cluster support disabled") {
        (
            Config,
            "the server is no cluster; its URL begins with redis:// or rediss://",
        )
    } else if detail.contains("DB index is out of range")
        || detail.contains("SELECT is not allowed")
    {
        (Config, "the server has no database of that number")
    } else if detail.contains("without any password configured") {
        (Denied, "the server has no password, and one was given")
    } else if detail.contains("user executing the script") {
        (Denied, "the user lacks a right that the store needs")
    } else if detail.contains("No such master with that name") {
        (Config, "the sentinels know no server of that name")
    } else if detail.contains("unknown command") || detail.contains("nknown subcommand") {
        (
            Rejected,
            "the server does not know a command that the store needs",
        )
    } else if detail.contains("wrong number of arguments") {
        (Rejected, "the server refused the request")
    } else {
        return None;
    };
    Some(known)
}

/// Whether a script was not known, and is to be sent as a whole. It was not executed.
pub(crate) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == Kind::Server(ServerErrorKind::NoScript)
}

/// The node to which the slot of a command is being moved, if this says so: nothing was done, and
/// the key is there, or nowhere.
pub(crate) fn taken_by(error: &RedisError) -> Option<Address> {
    if error.kind() != Kind::Server(ServerErrorKind::Ask) {
        return None;
    }
    let (node, _) = error.redirect_node()?;
    url::address(node)
}

/// The error of one member of a script, for the key of that member.
pub(crate) fn from_member(text: &str, lock: &str, stage: Stage) -> BackendError {
    let error = from_text(text, stage);
    if error.kind() != ErrorKind::Corrupt {
        return error;
    }
    let shown: String = lock.chars().take(200).collect();
    let detail = text.strip_prefix("CORRUPT ").unwrap_or("it is no lock");
    corrupt(format!(
        "what lies under {shown:?} cannot be read: {detail}"
    ))
}
