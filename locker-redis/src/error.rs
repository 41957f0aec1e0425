//! The one mapping of the client's errors to the error of the contract.
//!
//! What a caller must know first is whether the request may have had an effect. A server that
//! *refuses* has done nothing; a connection that broke after the request was written says nothing
//! about it. On a cluster there is one thing more: the client follows redirects and sends a request
//! again when a node is gone, and shows the error of the last attempt only. What stands behind it
//! may have been executed at the first one, so there a refusal is no proof.

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

#[cfg(test)]
mod tests {
    use super::*;

    /// What real servers say, and what it means.
    const REFUSALS: &[(&str, ErrorKind)] = &[
        (
            "LOADING Redis is loading the dataset in memory",
            ErrorKind::Unavailable,
        ),
        (
            "READONLY You can't write against a read only replica.",
            ErrorKind::Unavailable,
        ),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            ErrorKind::Unavailable,
        ),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            ErrorKind::Unavailable,
        ),
        ("CLUSTERDOWN The cluster is down", ErrorKind::Unavailable),
        ("CLUSTERDOWN Hash slot not served", ErrorKind::Unavailable),
        (
            "NOREPLICAS Not enough good replicas to write.",
            ErrorKind::Unavailable,
        ),
        (
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to \
             persist to disk.",
            ErrorKind::Unavailable,
        ),
        ("MOVED 3999 127.0.0.1:6381", ErrorKind::Unavailable),
        ("ASK 3999 127.0.0.1:6381", ErrorKind::Unavailable),
        (
            "NOSCRIPT No matching script. Please use EVAL.",
            ErrorKind::Unavailable,
        ),
        ("ERR max number of clients reached", ErrorKind::Unavailable),
        (
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            ErrorKind::Busy,
        ),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            ErrorKind::Busy,
        ),
        ("NOAUTH Authentication required.", ErrorKind::Denied),
        (
            "WRONGPASS invalid username-password pair or user is disabled.",
            ErrorKind::Denied,
        ),
        (
            "NOPERM this user has no permissions to run the 'evalsha' command",
            ErrorKind::Denied,
        ),
        ("NOPERM No permissions to access a key", ErrorKind::Denied),
        (
            "ERR The user executing the script can't run this command or subcommand",
            ErrorKind::Denied,
        ),
        (
            "DENIED Redis is running in protected mode because protected mode is enabled",
            ErrorKind::Denied,
        ),
        (
            "ERR AUTH <password> called without any password configured for the default user. Are \
             you sure your configuration is correct?",
            ErrorKind::Denied,
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            ErrorKind::Corrupt,
        ),
        ("CORRUPT the token is zero", ErrorKind::Corrupt),
        (
            "CROSSSLOT Keys in request don't hash to the same slot",
            ErrorKind::Rejected,
        ),
        (
            "EXECABORT Transaction discarded because of previous errors.",
            ErrorKind::Rejected,
        ),
        (
            "ERR unknown command 'EVALSHA', with args beginning with: ",
            ErrorKind::Rejected,
        ),
        (
            "ERR This instance has cluster support disabled",
            ErrorKind::Config,
        ),
        ("ERR DB index is out of range", ErrorKind::Config),
        (
            "ERR SELECT is not allowed in cluster mode",
            ErrorKind::Config,
        ),
        ("ERR No such master with that name", ErrorKind::Config),
        (
            "ERR wrong number of arguments for 'evalsha' command",
            ErrorKind::Rejected,
        ),
    ];

    #[test]
    fn every_refusal_has_its_kind_and_did_nothing() {
        for (text, kind) in REFUSALS {
            // As one member of a script has it, and as the whole request has it.
            let member = from_text(text, Stage::Once);
            let (code, detail) = text.split_once(' ').unwrap();
            let whole = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            for error in [member, from_redis(whole, Stage::Once)] {
                assert_eq!(error.kind(), *kind, "{text}");
                assert_eq!(error.effect(), Effect::NotApplied, "{text}");
            }
        }
    }

    /// Nobody knows who says this, and when: a proxy between may have passed the request on. So may the
    /// interpreter of a script have come to any point before it says this of a member.
    #[test]
    fn a_refusal_in_unknown_words_proves_nothing() {
        for text in [
            "SOMETHINGNEW we do not know",
            "upstream failure",
            "no upstream host",
            "user_script:12: attempt to index a nil value",
        ] {
            let (code, detail) = text.split_once(' ').unwrap();
            let whole = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            for error in [from_text(text, Stage::Once), from_redis(whole, Stage::Once)] {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
                assert_eq!(error.effect(), Effect::Unknown, "{text}");
            }
            let error = from_text(text, Stage::Connecting);
            assert_eq!(error.effect(), Effect::NotApplied, "{text}");
        }
    }

    /// A proxy says so of what it has passed on.
    #[test]
    fn a_refusal_in_an_unknown_sentence_proves_nothing_either() {
        for text in [
            "ERR Connection timed out",
            "ERR Connection reset by peer",
            "ERR",
        ] {
            let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
            let whole = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            for error in [from_text(text, Stage::Once), from_redis(whole, Stage::Once)] {
                assert_eq!(error.kind(), ErrorKind::Rejected, "{text}");
                assert_eq!(error.effect(), Effect::Unknown, "{text}");
            }
            let error = from_text(text, Stage::Connecting);
            assert_eq!(error.effect(), Effect::NotApplied, "{text}");
        }
    }

    #[test]
    fn the_clients_own_kinds_are_those_of_their_texts() {
        for (kind, expected) in [
            (ServerErrorKind::BusyLoading, ErrorKind::Unavailable),
            (ServerErrorKind::ReadOnly, ErrorKind::Unavailable),
            (ServerErrorKind::ClusterDown, ErrorKind::Unavailable),
            (ServerErrorKind::MasterDown, ErrorKind::Unavailable),
            (ServerErrorKind::Moved, ErrorKind::Unavailable),
            (ServerErrorKind::Ask, ErrorKind::Unavailable),
            (ServerErrorKind::NoScript, ErrorKind::Unavailable),
            (ServerErrorKind::TryAgain, ErrorKind::Busy),
            (ServerErrorKind::NoPerm, ErrorKind::Denied),
            (ServerErrorKind::CrossSlot, ErrorKind::Rejected),
            (ServerErrorKind::ExecAbort, ErrorKind::Rejected),
            (ServerErrorKind::NotBusy, ErrorKind::Rejected),
            (ServerErrorKind::NoSub, ErrorKind::Rejected),
            (ServerErrorKind::ResponseError, ErrorKind::Rejected),
        ] {
            let error = RedisError::from((Kind::Server(kind), "text"));
            assert_eq!(from_redis(error, Stage::Once).kind(), expected, "{kind:?}");
        }
    }

    /// Both are asked again over a connection that stays open, and only one shows that it lives.
    #[test]
    fn what_broke_or_is_silent_is_no_answer_and_a_refusal_is_one() {
        let cause = io::Error::from(io::ErrorKind::ConnectionReset);
        for error in [broken_line(cause.into()), straggler()] {
            assert_eq!(error.kind(), ErrorKind::Busy);
            assert!(error.is_unanswered(), "{error}");
        }
        for (text, _) in REFUSALS {
            let error = from_text(text, Stage::Repeated);
            assert!(!error.is_unanswered(), "{text}");
        }
    }

    /// It closes nothing, keeps what is known of the effect, and is an answer if a server has said it.
    #[test]
    fn what_one_primary_says_leaves_the_others_open() {
        let reset = || RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let late = || RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
        let nobody = || RedisError::from((Kind::ClusterConnectionNotFound, "text"));
        let text = "NOREPLICAS Not enough good replicas to write.";
        for (cause, effect, is_unanswered) in [
            (from_text(text, Stage::Once), Effect::NotApplied, false),
            (from_text(text, Stage::Repeated), Effect::Unknown, false),
            (from_redis(reset(), Stage::Repeated), Effect::Unknown, true),
            (from_redis(late(), Stage::Repeated), Effect::Unknown, true),
            (from_redis(nobody(), Stage::Repeated), Effect::Unknown, true),
        ] {
            let said = cause.to_string();
            let error = of_one_primary(cause);
            assert_eq!(error.kind(), ErrorKind::Busy, "{said}");
            assert_eq!(error.effect(), effect, "{said}");
            assert_eq!(error.is_unanswered(), is_unanswered, "{said}");
            assert_eq!(error.source().unwrap().to_string(), said);
        }
        let denied = from_text("NOPERM No permissions to access a key", Stage::Once);
        assert_eq!(of_one_primary(denied).kind(), ErrorKind::Denied);
    }

    /// On a cluster the client shows the last of several attempts.
    #[test]
    fn a_refusal_after_repetitions_proves_nothing() {
        for (text, kind) in REFUSALS {
            let expected = match kind {
                ErrorKind::Corrupt => Effect::NotApplied,
                _ => Effect::Unknown,
            };
            assert_eq!(
                from_text(text, Stage::Repeated).effect(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_script_that_failed_as_a_whole_may_have_done_something() {
        let text =
            "ERR user_script:12: attempt to index a nil value script: abc, on @user_script:12.";
        let error = from_text(text, Stage::Once);
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert_eq!(error.effect(), Effect::Unknown);
    }

    /// Before Redis 7 a member's error begins with where the script raised it.
    #[test]
    fn the_errors_of_older_scripts_are_read_as_well() {
        for text in [
            "@user_script: 12: -OOM command not allowed when used memory > 'maxmemory'.",
            "user_script:12: OOM command not allowed when used memory > 'maxmemory'.",
            "-OOM command not allowed when used memory > 'maxmemory'.",
        ] {
            let error = from_text(text, Stage::Once);
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
            assert!(error.to_string().contains("memory"), "{text}: {error}");
        }
    }

    #[test]
    fn a_connection_that_broke_says_nothing_about_its_requests() {
        for (cause, kind) in [
            (io::ErrorKind::ConnectionReset, ErrorKind::Unavailable),
            (io::ErrorKind::BrokenPipe, ErrorKind::Unavailable),
            (io::ErrorKind::UnexpectedEof, ErrorKind::Unavailable),
            (io::ErrorKind::ConnectionRefused, ErrorKind::Unavailable),
            (io::ErrorKind::TimedOut, ErrorKind::Timeout),
        ] {
            for (stage, effect) in [
                (Stage::Connecting, Effect::NotApplied),
                (Stage::Once, Effect::Unknown),
                (Stage::Repeated, Effect::Unknown),
            ] {
                let error = from_redis(io::Error::from(cause).into(), stage);
                assert_eq!(error.kind(), kind, "{cause:?}");
                assert_eq!(error.effect(), effect, "{cause:?} {stage:?}");
            }
        }
        // A certificate that is not accepted will not be accepted the next time.
        let certificate = io::Error::from(io::ErrorKind::InvalidData);
        let error = from_redis(certificate.into(), Stage::Connecting);
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
