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

/// A refusal as one member of a script has it, and as the whole request has it.
fn in_both_forms(text: &str) -> [BackendError; 2] {
    let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
    let whole = redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
    [from_text(text, Stage::Once), from_redis(whole, Stage::Once)]
}

#[test]
fn every_refusal_has_its_kind_and_did_nothing() {
    for (text, kind) in REFUSALS {
        for error in in_both_forms(text) {
            assert_eq!(error.kind(), *kind, "{text}");
            assert_eq!(error.effect(), Effect::NotApplied, "{text}");
        }
    }
}

/// Nobody knows who says this, and when: a proxy between may have passed the request on, and says so under
/// the code that servers use for anything. So may the interpreter of a script have come to any point before
/// it says this of a member.
#[test]
fn a_refusal_in_unknown_words_proves_nothing() {
    for (text, kind) in [
        ("SOMETHINGNEW we do not know", ErrorKind::Unavailable),
        ("upstream failure", ErrorKind::Unavailable),
        ("no upstream host", ErrorKind::Unavailable),
        (
            "user_script:12: attempt to index a nil value",
            ErrorKind::Unavailable,
        ),
        ("ERR Connection timed out", ErrorKind::Rejected),
        ("ERR Connection reset by peer", ErrorKind::Rejected),
        ("ERR", ErrorKind::Rejected),
    ] {
        for error in in_both_forms(text) {
            assert_eq!(error.kind(), kind, "{text}");
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
    let text = "ERR user_script:12: attempt to index a nil value script: abc, on @user_script:12.";
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
