//! The one mapping of etcd's errors to the error of the contract.
//!
//! What a caller must know first is whether the request may have had an effect. etcd answers by a
//! gRPC code and a text; the text says how far the request had come. What it refuses before it
//! proposes a change to the cluster was certainly not applied. Of a proposal that got no answer
//! nothing is known: it may be committed later. Where the text is one that we do not know, and where
//! the connection failed under the request, the effect of a write counts as unknown.

use etcd_client::Error as ClientError;
use locker_core::{BackendError, Effect, ErrorKind};
use std::error::Error;
use std::fmt;
use tonic::{Code, Status};

/// Whether a request would change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// It only reads: whatever became of it, nothing was changed.
    Read,
    /// It writes.
    Write,
}

/// The configuration is wrong; nothing was done.
pub(crate) fn config(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Config, Effect::NotApplied, message)
}

/// It cannot be done now; nothing was done.
pub(crate) fn unavailable(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorKind::Unavailable, Effect::NotApplied, message)
}

/// What is found under a key cannot be read; nothing was done to it.
pub(crate) fn corrupt(what: impl fmt::Display) -> BackendError {
    BackendError::new(
        ErrorKind::Corrupt,
        Effect::NotApplied,
        format!("{what} is none that this release wrote"),
    )
}

/// An answer has not the form of an answer to its request.
pub(crate) fn malformed() -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        Effect::Unknown,
        "etcd answered something else than it was asked",
    )
}

/// Maps an error of the client library.
pub(crate) fn from_client(error: ClientError, request: Request) -> BackendError {
    use ErrorKind::{Config, Unavailable};
    let (kind, effect, message) = match &error {
        ClientError::GRpcStatus(status) if never_left(status) => (
            Unavailable,
            Effect::NotApplied,
            "the connection to etcd is lost".to_owned(),
        ),
        ClientError::GRpcStatus(status) => {
            let (kind, effect) = of_status(status.code(), status.message());
            (kind, effect, told(status))
        }
        ClientError::TransportError(_) | ClientError::IoError(_) => (
            Unavailable,
            Effect::Unknown,
            "the connection to etcd failed".to_owned(),
        ),
        // The streams of a watch or of a keep-alive have ended.
        ClientError::WatchError(_) | ClientError::LeaseKeepAliveError(_) => (
            Unavailable,
            Effect::Unknown,
            "a stream of etcd has ended".to_owned(),
        ),
        ClientError::InvalidUri(_)
        | ClientError::InvalidArgs(_)
        | ClientError::EndpointError(_) => (
            Config,
            Effect::NotApplied,
            "etcd cannot be reached as configured".to_owned(),
        ),
        ClientError::InvalidMetadataValue(_)
        | ClientError::Utf8Error(_)
        | ClientError::ElectError(_)
        | ClientError::EndpointsNotManaged
        | ClientError::Internal(_) => (
            Unavailable,
            Effect::Unknown,
            "the client of etcd failed".to_owned(),
        ),
    };
    let effect = match request {
        Request::Read => Effect::NotApplied,
        Request::Write => effect,
    };
    BackendError::new(kind, effect, message).with_source(Told(error))
}

/// Whether etcd refused because there is no such lease (any more).
pub(crate) fn is_no_lease(error: &ClientError) -> bool {
    matches!(error, ClientError::GRpcStatus(status)
        if status.code() == Code::NotFound && status.message() == NO_LEASE)
        || matches!(error, ClientError::LeaseKeepAliveError(_))
}

/// Whether etcd refused to grant a lease because its id is taken.
pub(crate) fn is_lease_taken(error: &ClientError) -> bool {
    matches!(error, ClientError::GRpcStatus(status) if status.message() == LEASE_TAKEN)
}

/// Whether etcd takes no more data. It may have taken this all the same: it looks at its quota before
/// it proposes a request, and again when it applies it, does what was proposed, and then says so.
pub(crate) fn is_full(error: &BackendError) -> bool {
    has_text(error, NO_SPACE)
}

/// Whether a lease that was named in a transaction is gone.
pub(crate) fn names_no_lease(error: &BackendError) -> bool {
    has_text(error, NO_LEASE)
}

fn has_text(error: &BackendError, text: &str) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<Told>());
    matches!(cause, Some(Told(ClientError::GRpcStatus(status))) if status.message() == text)
}

/// Whether credentials were shown to an etcd that asks for none.
pub(crate) fn is_auth_not_enabled(error: &ClientError) -> bool {
    matches!(error, ClientError::GRpcStatus(status) if status.message() == AUTH_NOT_ENABLED)
}

const NO_LEASE: &str = "etcdserver: requested lease not found";
const LEASE_TAKEN: &str = "etcdserver: lease already exists";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const AUTH_NOT_ENABLED: &str = "etcdserver: authentication is not enabled";

/// What an answer of etcd means: by its text, where that says more than the code does.
fn of_status(code: Code, text: &str) -> (ErrorKind, Effect) {
    use Effect::{NotApplied, Unknown};
    use ErrorKind::{Busy, Config, Denied, Rejected, Timeout, Unavailable};
    match text {
        // Refused before anything was proposed. Another member, or a later moment, may serve.
        "etcdserver: no leader"
        | "etcdserver: not leader"
        | "etcdserver: unhealthy cluster"
        | "etcdserver: rpc not supported for learner"
        | "etcdserver: member is learner" => return (Unavailable, NotApplied),
        // The token of this connection has run out; a new connection shows the password again.
        "etcdserver: invalid auth token" | "etcdserver: revision of auth store is old" => {
            return (Unavailable, NotApplied);
        }
        // The queue of proposals is full: the connection is sound.
        "etcdserver: too many requests" => return (Busy, NotApplied),
        // See `is_full`.
        NO_SPACE => return (Busy, Unknown),
        "etcdserver: user name is empty"
        | "etcdserver: user name not found"
        | "etcdserver: permission denied"
        | "etcdserver: authentication failed, invalid user ID or password" => {
            return (Denied, NotApplied);
        }
        AUTH_NOT_ENABLED => return (Config, NotApplied),
        // A proposal that may yet be committed.
        "etcdserver: request timed out"
        | "etcdserver: request timed out, possibly due to previous leader failure"
        | "etcdserver: request timed out, possibly due to connection lost"
        | "etcdserver: request timed out, waiting for the applied index took too long" => {
            return (Timeout, Unknown);
        }
        "etcdserver: leader changed" | "etcdserver: server stopped" | "raft proposal dropped" => {
            return (Unavailable, Unknown);
        }
        _ => {}
    }
    match code {
        Code::PermissionDenied | Code::Unauthenticated => (Denied, NotApplied),
        // The arguments were looked at before anything was proposed. "Already exists", "not found"
        // and "failed precondition" come from applying, which then changed nothing.
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => (Rejected, NotApplied),
        // Not an etcd, or one without the v3 interface.
        Code::Unimplemented => (Config, NotApplied),
        // The member, or something in between, is overloaded; how far the request came is not said.
        Code::ResourceExhausted => (Busy, Unknown),
        Code::DeadlineExceeded => (Timeout, Unknown),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => (Unavailable, Unknown),
    }
}

/// Whether the request found its connection closed before any byte of it was sent.
fn never_left(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<crate::socket::Spent>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What etcd says, in its own words where they are words of etcd.
fn told(status: &Status) -> String {
    match status.message().strip_prefix("etcdserver: ") {
        Some(text) => format!("etcd says: {text}"),
        None => format!("etcd did not answer as it should ({:?})", status.code()),
    }
}

/// An error of the client as a cause: its own text repeats its source, and it has none.
#[derive(Debug)]
struct Told(ClientError);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ClientError::GRpcStatus(status) => {
                write!(f, "{:?}: {}", status.code(), status.message())
            }
            other => other.fmt(f),
        }
    }
}

impl Error for Told {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            ClientError::GRpcStatus(status) => status.source(),
            ClientError::TransportError(error) => error.source(),
            ClientError::IoError(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(code: Code, text: &str, request: Request) -> (ErrorKind, Effect) {
        let error = from_client(ClientError::GRpcStatus(Status::new(code, text)), request);
        (error.kind(), error.effect())
    }

    /// What etcd says, and what that means for a write.
    const TEXTS: [(Code, &str, ErrorKind, Effect); 23] = {
        use Effect::{NotApplied, Unknown};
        use ErrorKind::{Busy, Config, Denied, Rejected, Timeout, Unavailable};
        [
            (
                Code::Unavailable,
                "etcdserver: no leader",
                Unavailable,
                NotApplied,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: not leader",
                Unavailable,
                NotApplied,
            ),
            (
                Code::Unavailable,
                "etcdserver: leader changed",
                Unavailable,
                Unknown,
            ),
            (
                Code::Unavailable,
                "etcdserver: server stopped",
                Unavailable,
                Unknown,
            ),
            (Code::Unknown, "raft proposal dropped", Unavailable, Unknown),
            (
                Code::Unavailable,
                "etcdserver: unhealthy cluster",
                Unavailable,
                NotApplied,
            ),
            (
                Code::Unavailable,
                "etcdserver: rpc not supported for learner",
                Unavailable,
                NotApplied,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                Timeout,
                Unknown,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                Timeout,
                Unknown,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
                Timeout,
                Unknown,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                Busy,
                NotApplied,
            ),
            (Code::ResourceExhausted, NO_SPACE, Busy, Unknown),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                Denied,
                NotApplied,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                Denied,
                NotApplied,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Denied,
                NotApplied,
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                Unavailable,
                NotApplied,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                Unavailable,
                NotApplied,
            ),
            (
                Code::FailedPrecondition,
                AUTH_NOT_ENABLED,
                Config,
                NotApplied,
            ),
            (Code::NotFound, NO_LEASE, Rejected, NotApplied),
            (Code::FailedPrecondition, LEASE_TAKEN, Rejected, NotApplied),
            (
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
                Rejected,
                NotApplied,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Rejected,
                NotApplied,
            ),
            (
                Code::Unavailable,
                "error reading from server: EOF",
                Unavailable,
                Unknown,
            ),
        ]
    };

    #[test]
    fn the_texts_of_etcd_say_how_far_the_request_came() {
        use Effect::NotApplied;
        for (code, text, kind, effect) in TEXTS {
            assert_eq!(mapped(code, text, Request::Write), (kind, effect), "{text}");
            assert_eq!(
                mapped(code, text, Request::Read),
                (kind, NotApplied),
                "{text}"
            );
        }
    }

    #[test]
    fn every_code_has_a_meaning_without_a_text() {
        use Effect::{NotApplied, Unknown};
        use ErrorKind::{Busy, Config, Denied, Rejected, Timeout, Unavailable};
        let table = [
            (Code::Ok, Unavailable, Unknown),
            (Code::Cancelled, Unavailable, Unknown),
            (Code::Unknown, Unavailable, Unknown),
            (Code::InvalidArgument, Rejected, NotApplied),
            (Code::DeadlineExceeded, Timeout, Unknown),
            (Code::NotFound, Rejected, NotApplied),
            (Code::AlreadyExists, Rejected, NotApplied),
            (Code::PermissionDenied, Denied, NotApplied),
            (Code::ResourceExhausted, Busy, Unknown),
            (Code::FailedPrecondition, Rejected, NotApplied),
            (Code::Aborted, Unavailable, Unknown),
            (Code::OutOfRange, Rejected, NotApplied),
            (Code::Unimplemented, Config, NotApplied),
            (Code::Internal, Unavailable, Unknown),
            (Code::Unavailable, Unavailable, Unknown),
            (Code::DataLoss, Unavailable, Unknown),
            (Code::Unauthenticated, Denied, NotApplied),
        ];
        for (code, kind, effect) in table {
            assert_eq!(mapped(code, "", Request::Write), (kind, effect), "{code:?}");
        }
    }

    /// It has too much to do, and says so: its connection lives.
    #[test]
    fn a_refusal_for_want_of_room_is_an_answer() {
        for text in ["etcdserver: too many requests", NO_SPACE, ""] {
            let status = Status::new(Code::ResourceExhausted, text);
            let error = from_client(ClientError::GRpcStatus(status), Request::Write);
            assert_eq!(error.kind(), ErrorKind::Busy, "{text}");
            assert!(!error.is_unanswered(), "{text}");
        }
    }

    #[test]
    fn no_text_repeats_its_source() {
        let status = Status::new(Code::Unavailable, "etcdserver: no leader");
        let error = from_client(ClientError::GRpcStatus(status), Request::Write);
        assert_eq!(error.to_string(), "etcd says: no leader");
        let cause = error.source().map(ToString::to_string);
        assert_eq!(cause.as_deref(), Some("Unavailable: etcdserver: no leader"));
    }
}
