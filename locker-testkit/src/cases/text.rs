//! Hostile names: whatever text is allowed comes back as it went in, and meets nobody else's.

use crate::case::{Case, Grant, LONG, held};
use locker_core::backend::{Liveness, Page, Released, Standing};
use locker_core::identity::MAX_TEXT_BYTES;
use locker_core::{Key, Trace};

/// Texts that some store, protocol or escape somewhere takes for something else.
fn hostile() -> Vec<String> {
    let mut texts: Vec<String> = [
        // Every ASCII punctuation at once, then what quoting makes of it.
        r##"!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"##,
        "'",
        "''",
        "\"",
        "`",
        "\\",
        "\\\\",
        "\\'",
        "\\0",
        "\\x00",
        "$1",
        "?1",
        ":a",
        "--",
        "/*",
        "'; DROP TABLE locks; --",
        "${jndi}",
        "{}",
        "{a}b",
        "a{",
        "}a",
        "%s",
        "%00",
        "%25",
        "%2525",
        // Patterns and wildcards.
        "%",
        "_",
        "*",
        "?",
        "[a-z]",
        "a%",
        "a_",
        "a*",
        // White space, line ends, controls.
        " ",
        "  ",
        "a ",
        " a",
        "a",
        "a\t",
        "a\n",
        "a\r\n",
        "\n",
        "\u{1}",
        "\u{7f}",
        "\u{1b}[2J",
        // Case, and what only some collations tell apart.
        "A",
        "ä",
        "a\u{308}",
        "ß",
        "ss",
        "İ",
        "i",
        "I",
        "ı",
        "K",
        "\u{212a}",
        // Beyond the basic plane, directions, invisible characters.
        "\u{1F512}",
        "\u{1F468}\u{200d}\u{1F469}\u{200d}\u{1F467}",
        "\u{202e}abc",
        "\u{feff}",
        "\u{200b}",
        "日本語",
        "\u{ffff}",
        "\u{10ffff}",
        // Prefixes of one another, and path and range separators.
        "ab",
        "abc",
        "a/",
        "a/b",
        "a//b",
        "/",
        ".",
        "..",
        "a:",
        "a:b",
        "0",
        "00",
        "1",
        "-1",
        "null",
        // What looks like the system's own names.
        "a@host/10.99.0",
        "a@host/10.99.0#x@evil/9.9.9#y",
        "locker",
        "locker:lock:a",
    ]
    .map(String::from)
    .to_vec();
    texts.push("x".repeat(MAX_TEXT_BYTES));
    texts.push("é".repeat(MAX_TEXT_BYTES / 2));
    texts.push(format!("{}y", "x".repeat(MAX_TEXT_BYTES - 1)));
    texts
}

fn keys() -> Vec<Key> {
    let keys = hostile().into_iter();
    keys.map(|text| Key::new(text).expect("the text is allowed"))
        .collect()
}

/// A quote, a newline, 512 bytes: each key is granted, read, listed and
/// released as itself.
pub async fn hostile_keys_round_trip(case: Case) {
    let [a, b] = case.processes().await;
    for key in keys() {
        let grant = a.acquire(&key).await;
        let read = b.observe(&key).await;
        assert_eq!(
            read.data.owner, grant.owner,
            "{key:?} is read as it was written"
        );
        assert_eq!(a.check(&grant.owner).await, Standing::Mine, "{key:?}");
        assert_eq!(
            a.extend(&grant.owner, LONG).await,
            Standing::Mine,
            "{key:?}"
        );
        let page = Page {
            after: None,
            limit: 10,
        };
        let listed = b.list_locks(key.as_str(), &page).await.items;
        let mut found = listed.into_iter().flatten().map(|held| held.data.owner);
        assert!(
            found.any(|owner| owner == grant.owner),
            "{key:?} is listed by itself as prefix"
        );
        assert_eq!(a.release(&grant.owner).await, Released::Done, "{key:?}");
        assert!(b.read(&key).await.is_none(), "{key:?} is released");
    }
}

/// No two of them are the same lock to the store: all are held at once, by different acquisitions,
/// and each is released alone.
pub async fn hostile_keys_do_not_collide(case: Case) {
    let process = case.process().await;
    let mut grants: Vec<Grant> = Vec::new();
    for key in keys() {
        grants.push(process.acquire(&key).await);
    }
    while let Some(grant) = grants.pop() {
        assert_eq!(process.release(&grant.owner).await, Released::Done);
        for batch in grants.chunks(process.limits().batch.max(1)) {
            let owners: Vec<_> = batch.iter().map(|grant| grant.owner.clone()).collect();
            for (owner, standing) in owners.iter().zip(process.check_all(&owners).await) {
                assert_eq!(
                    standing,
                    Standing::Mine,
                    "{owner} went with {}",
                    grant.owner
                );
            }
        }
    }
}

/// CU-18: a trace is a note, whatever it looks like.
pub async fn hostile_traces_round_trip(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    for text in hostile() {
        let trace = Trace::new(text).expect("the text is allowed");
        let grant = a.acquire_as(a.owner_with(&key, Some(&trace)), LONG).await;
        let seen = held(b.create(&b.owner(&key)).await, "another holds it");
        assert_eq!(seen.data.trace(), Some(&trace));
        assert_eq!(seen.data.owner, grant.owner);
        assert_eq!(a.release(&grant.owner).await, Released::Done);
    }
}

/// A host name is free text as well: it is in every process hash.
pub async fn hostile_hosts_round_trip(case: Case) {
    let b = case.process().await;
    for text in hostile().iter().step_by(4) {
        let a = case.unborn_on(text).await;
        a.be_born(LONG).await;
        match b.read_process(a.hash()).await {
            Liveness::Alive(data) => assert_eq!(data.process.host().as_str(), text),
            other => panic!("a process on {text:?} should be alive, but: {other:?}"),
        }
        let grant = a.acquire(&case.key()).await;
        assert_eq!(b.observe(grant.owner.key()).await.data.process(), a.hash());
        a.retire().await;
        assert_eq!(b.read_process(a.hash()).await, Liveness::Dead);
    }
}

/// Every part at its limit at once: key, host and trace of 512 bytes each, most of which escape.
pub async fn the_longest_names_fit(case: Case) {
    let b = case.process().await;
    let longest = "#".repeat(MAX_TEXT_BYTES);
    let a = case.unborn_on(&longest).await;
    a.be_born(LONG).await;
    let key = Key::new(&longest).expect("512 bytes are allowed");
    let trace = Trace::new(&longest).expect("512 bytes are allowed");
    let grant = a.acquire_as(a.owner_with(&key, Some(&trace)), LONG).await;
    assert_eq!(b.observe(&key).await.data.owner, grant.owner);
    assert_eq!(a.extend(&grant.owner, LONG).await, Standing::Mine);
    assert_eq!(a.release(&grant.owner).await, Released::Done);
}

/// PG-1: a waiter of any key is woken, and only the release has to succeed for that.
pub async fn hostile_keys_are_watched(case: Case) {
    let [a, b] = case.processes().await;
    if !a.limits().hints {
        return;
    }
    let mut keys = keys();
    keys.reverse();
    for key in keys.iter().step_by(5) {
        let grant = a.acquire(key).await;
        let mut hints = b.wait_for(key).await;
        assert_eq!(a.release(&grant.owner).await, Released::Done, "{key:?}");
        case.hint(&mut hints, &format!("{key:?} was released"))
            .await;
    }
}
