//! What somebody else has put under a key (S11): a typed error for that key, and nothing is
//! overwritten.

use super::*;
use locker_core::backend::{Released, Standing};
use locker_core::{Effect, ErrorKind};

/// Commands that put something under the key of the lock `k`.
const PLANTED: &[(&str, &[&str])] = &[
    ("a list", &["RPUSH", "K", "x"]),
    ("another program's hash", &["HSET", "K", "name", "value"]),
    ("a token of letters", &["HSET", "K", "token", "abc"]),
    ("a token of zero", &["HSET", "K", "token", "0"]),
    ("a token with an exponent", &["HSET", "K", "token", "1e5"]),
    (
        "a token beyond what is exact",
        &["HSET", "K", "token", "99999999999999999999"],
    ),
    (
        "an owner without a token",
        &["HSET", "K", "owner", "k@h/1.1.1"],
    ),
    (
        "a record without an end",
        &[
            "HSET",
            "K",
            "token",
            "5",
            "format",
            "1",
            "owner",
            "k@h/1.1.1",
        ],
    ),
    (
        "an expired record of a later format",
        &[
            "HSET",
            "K",
            "token",
            "5",
            "format",
            "2",
            "owner",
            "k@h/1.1.1",
            "expires",
            "1",
        ],
    ),
    (
        "an expired record of another key",
        &[
            "HSET",
            "K",
            "token",
            "5",
            "format",
            "1",
            "owner",
            "j@h/1.1.1",
            "expires",
            "1",
        ],
    ),
];

#[tokio::test]
async fn what_is_no_record_of_this_release_is_corrupt_and_stays() {
    let server = Server::start(&Setup::new()).unwrap();
    for (what, command) in PLANTED {
        let namespace = fresh("foreign");
        let a = Process::born(server.url(), &namespace).await;
        let name = format!("{namespace}:{{k}}");
        let words: Vec<&str> = command
            .iter()
            .map(|word| if *word == "K" { &name } else { *word })
            .collect();
        server.node().command(&words).unwrap();
        let dump = || server.node().query::<Vec<u8>>(&["DUMP", &name]).unwrap();
        let before = dump();
        let owner = a.owner("k");
        let mut answers = vec![
            a.create(&owner).await.map(|_| ()),
            a.backend.release(&owner).await.map(|_| ()),
        ];
        // A reader has no owner to compare with; to it, what has expired is free.
        if !what.contains("of another key") {
            answers.push(a.backend.read_lock(&key("k")).await.map(|_| ()));
        }
        for answer in answers {
            let error = answer.expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
            assert_eq!(error.effect(), Effect::NotApplied, "{what}: {error:?}");
        }
        assert_eq!(dump(), before, "{what} is left as it was");
        // Beside it, in one batch, everything is as ever.
        let sound = a.acquire("sound").await;
        let standings = a.backend.check(&[owner, sound]).await.unwrap().value;
        assert_eq!(
            standings[0].as_ref().unwrap_err().kind(),
            ErrorKind::Corrupt,
            "{what}"
        );
        assert_eq!(*standings[1].as_ref().unwrap(), Standing::Mine, "{what}");
    }
}

/// The owner's own record, of which one number is none any more, is neither released nor forgotten.
#[tokio::test]
async fn an_own_record_that_is_damaged_is_not_released() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let damages = [
        ("expires", "inf"),
        ("expires", "1e300"),
        ("expires", "99999999999999999"),
        ("token", "99999999999999999"),
        ("token", "-1"),
    ];
    for (number, (field, damage)) in damages.into_iter().enumerate() {
        let lock = format!("k{number}");
        let owner = a.acquire(&lock).await;
        let name = format!("ns:{{{lock}}}");
        let words = ["HSET", &name, field, damage];
        server.node().command(&words).unwrap();
        let dump = || server.node().query::<Vec<u8>>(&["DUMP", &name]).unwrap();
        let before = dump();
        let error = a.backend.release(&owner).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{field} {damage}");
        assert_eq!(dump(), before, "{field} {damage}");
    }
}

/// The record of a holder's process that cannot be read is no death.
#[tokio::test]
async fn a_holder_whose_record_is_damaged_is_not_robbed() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    let owner = a.acquire("k").await;
    let held = b.backend.read_lock(&key("k")).await.unwrap().value.unwrap();
    let name = format!("ns:process:{}", a.hash);
    for damage in ["x", "12", "1 2 3", "-1 5", ""] {
        server.node().command(&["SET", &name, damage]).unwrap();
        let taken = b
            .backend
            .take_over(&claim(&b.owner("k")), &held.observed)
            .await;
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::Corrupt, "{damage:?}");
        let read = b.backend.read_process(&a.hash).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt, "{damage:?}");
        let renewed = a.backend.renew_process(&a.hash, LONG).await;
        assert_eq!(
            renewed.unwrap_err().kind(),
            ErrorKind::Corrupt,
            "{damage:?}"
        );
    }
    let standings = a.backend.check(&[owner]).await.unwrap().value;
    assert_eq!(*standings[0].as_ref().unwrap(), Standing::Mine);
}

/// Tokens are whole numbers to the last digit, and grow by one when the clock does not help.
#[tokio::test]
async fn a_token_ahead_of_the_clock_grows_by_one() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let ahead: u64 = 4_102_444_800_123_457;
    server
        .node()
        .command(&["HSET", "ns:{k}", "token", &ahead.to_string()])
        .unwrap();
    for step in 1..=3 {
        let owner = a.owner("k");
        let granted = token(&a.create(&owner).await.unwrap());
        assert_eq!(granted, Token::new(ahead + step));
        a.backend.release(&owner).await.unwrap();
    }
    // The key stays until the clock has passed the token by the retention.
    let goes: u64 = server.node().query(&["PEXPIRETIME", "ns:{k}"]).unwrap();
    assert!(goes >= (ahead + 3) / 1000 + 30 * 24 * 3_600_000, "{goes}");
}

/// A grant sets until when the key stays, unless an earlier one of the same 100,000 seconds has: then that
/// is late enough. However often a lock is used, its token is remembered for 30 days behind its own time.
#[tokio::test]
async fn a_token_is_remembered_though_not_every_grant_says_so() {
    const SPAN_MS: u64 = 100_000_000;
    let server = Server::start(&Setup::new()).unwrap();
    let node = server.node();
    let goes = || -> u64 { node.query(&["PEXPIRETIME", "ns:{k}"]).unwrap() };
    let a = Process::born(server.url(), "ns").await;
    let remembered = async || {
        let owner = a.owner("k");
        let granted = token(&a.create(&owner).await.unwrap());
        a.backend.release(&owner).await.unwrap();
        let behind = (goes() * 1000).saturating_sub(granted.get());
        assert!(behind >= 30 * 24 * 3_600_000_000, "{behind}");
        granted.get() / 1000
    };
    let now = remembered().await;
    // The second one has nothing to say, as long as no span begins just now.
    let before = goes();
    if remembered().await / SPAN_MS == now / SPAN_MS {
        assert_eq!(goes(), before);
    }
    // A token of the span before, whose key would go earlier.
    let earlier = ((now / SPAN_MS) * SPAN_MS - 1) * 1000;
    let earlier = earlier.to_string();
    node.command(&["HSET", "ns:{k}", "token", &earlier])
        .unwrap();
    node.command(&["PEXPIRE", "ns:{k}", "1000000"]).unwrap();
    remembered().await;
    // A lock that is held for longer than a span, under a token of this one.
    let owner = a.owner("k");
    let claim = Claim {
        ttl: Duration::from_secs(40 * 24 * 3600),
        ..claim(&owner)
    };
    a.backend.try_create(&claim).await.unwrap();
    assert!(goes() >= now + 40 * 24 * 3_600_000);
}

/// A user who may not say until when a key stays is granted nothing: neither on a new key, nor where a
/// later grant would rely on what an earlier one has not said, and its token might be forgotten.
#[tokio::test]
async fn without_a_time_to_stay_nothing_is_granted() {
    let server = Server::start(&Setup::new()).unwrap();
    let node = server.node();
    let user = "ACL SETUSER narrow on >pw ~* &* +@all -pexpireat";
    let user: Vec<&str> = user.split(' ').collect();
    node.command(&user).unwrap();
    let url = server.url().replace("redis://", "redis://narrow:pw@");
    let a = Process::born(&url, "ns").await;
    let dump = || -> Vec<String> { node.query(&["HGETALL", "ns:{k}"]).unwrap() };
    let refused = async || {
        let before = dump();
        for _ in 0..2 {
            let owner = a.owner("k");
            let error = a.create(&owner).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert_eq!(error.effect(), Effect::NotApplied, "{error}");
            let released = a.backend.release(&owner).await.unwrap().value;
            assert_eq!(released, Released::Absent);
            assert_eq!(dump(), before);
        }
    };
    refused().await;
    // A token of an earlier span, whose key is about to go.
    let earlier = ["HSET", "ns:{k}", "token", "1500000000000000"];
    node.command(&earlier).unwrap();
    node.command(&["PEXPIRE", "ns:{k}", "100000"]).unwrap();
    refused().await;
}
