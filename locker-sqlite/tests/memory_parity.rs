//! The memory store is the reference: the same requests, in any order, get the same answers.

#![allow(clippy::unwrap_used)] // A test.

mod common;

use common::{Place, key};
use locker_core::backend::{Claim, Force, Observed, Page, Reply};
use locker_core::memory::Memory;
use locker_core::{
    Backend, BackendError, Host, Key, ManualClock, OwnerHash, ProcessHash, StoreTime, Trace,
};
use std::sync::Arc;
use std::time::Duration;

/// A small generator, so that a seed is a whole scenario.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What the two stores may differ in: tokens, times, and how long something lasts.
fn comparable<T: std::fmt::Debug>(answer: Result<Reply<T>, BackendError>) -> String {
    let text = match answer {
        Ok(reply) => format!("{:?}", reply.value),
        Err(error) => format!("{:?} {:?}", error.kind(), error.effect()),
    };
    let mut masked = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = ["Token(", "Timestamp(", "free_in: ", "place: "]
        .iter()
        .filter_map(|word| rest.find(word).map(|at| at + word.len()))
        .min()
        .map(|at| rest.split_at(at))
    {
        masked.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_alphanumeric() || ".µ".contains(c));
    }
    masked + rest
}

const KEYS: [&str; 6] = ["a", "a%", "a_b", "a#@%/ü", "b\u{1}", "\u{10ffff}"];

async fn play(seed: u64) {
    let place = Place::new();
    let sqlite = place.open().await;
    let memory: Arc<dyn Backend> = Arc::new(Memory::new(Arc::new(ManualClock::new())));
    let mut dice = Dice(seed);
    let process = |n: u64| ProcessHash::new(&Host::new("h/1.2").unwrap(), 7, u128::from(n));
    let trace = Trace::new("t#x@y").unwrap();
    for step in 0..220 {
        let at = |n| process(n);
        let name = KEYS[usize::try_from(dice.roll(6)).unwrap()];
        let p = at(dice.roll(3));
        let seq = dice.roll(3);
        let owner = OwnerHash::new(&key(name), &p, seq, (seq == 1).then_some(&trace));
        let ttl = Duration::from_secs(3600);
        let not_after = match dice.roll(12) {
            0 => StoreTime::from_micros(0),
            _ => StoreTime::from_micros(u64::MAX),
        };
        let claim = Claim {
            owner: owner.clone(),
            ttl,
            not_after,
        };
        let observed = Observed::new(
            OwnerHash::new(
                &key(name),
                &at(dice.roll(3)),
                dice.roll(3),
                (dice.roll(2) == 1).then_some(&trace),
            )
            .as_str(),
        );
        let owners: Vec<OwnerHash> = KEYS
            .iter()
            .map(|name| OwnerHash::new(&key(name), &p, seq, (seq == 1).then_some(&trace)))
            .collect();
        let prefix = ["", "a", "a%", "b", "zz"][usize::try_from(dice.roll(5)).unwrap()];
        let page = Page {
            after: None,
            limit: 20,
        };
        let choice = dice.roll(22);
        let mut answers = Vec::new();
        for store in [&memory, &sqlite] {
            answers.push(match choice {
                0 => comparable(store.create_process(&p, ttl).await),
                1 => comparable(store.renew_process(&p, ttl).await),
                2 if dice.0.is_multiple_of(3) => comparable(store.retire_process(&p).await),
                3..=7 => comparable(store.try_create(&claim).await),
                8..=10 => comparable(store.take_over(&claim, &observed).await),
                11 => comparable(store.extend(&owners, ttl).await),
                12 => comparable(store.check(&owners).await),
                13 | 14 => comparable(store.release(&owner).await),
                15 => comparable(store.settle(&owner, not_after).await),
                16 => comparable(store.force_release(&owner, Force::Mark).await),
                17 => comparable(store.force_release(&owner, Force::Now).await),
                18 => comparable(store.read_lock(&key(name)).await),
                19 => comparable(store.read_process(&p).await),
                20 => comparable(store.list_locks(prefix, &page).await),
                _ => comparable(store.list_processes(&page).await),
            });
        }
        assert_eq!(
            answers[0], answers[1],
            "seed {seed}, step {step}, choice {choice}, {owner}, prefix {prefix:?}"
        );
    }
}

#[tokio::test]
async fn random_requests_get_the_answers_of_the_memory_store() {
    for seed in 1..=12_u64 {
        play(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed)).await;
    }
}

#[tokio::test]
async fn short_records_expire_as_in_memory() {
    let place = Place::new();
    let store = place.open().await;
    let p = common::born(&store, 1).await;
    let owner = common::owner("k", &p, 1);
    let ttl = Duration::from_millis(50);
    let short = Claim {
        ttl,
        ..common::claim(&owner)
    };
    let first = common::granted(store.try_create(&short).await.unwrap().value);
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(store.read_lock(&key("k")).await.unwrap().value, None);
    let standing = store
        .extend(std::slice::from_ref(&owner), ttl)
        .await
        .unwrap()
        .value;
    assert_eq!(format!("{standing:?}"), "[Ok(Absent)]");
    let released = store.release(&owner).await.unwrap().value;
    assert_eq!(format!("{released:?}"), "Absent");
    // The same owner again is a new grant with a greater token (S2).
    let second = common::granted(store.try_create(&short).await.unwrap().value);
    assert!(second > first);
    // A process that has expired stays dead.
    let q = common::process(2);
    store.create_process(&q, ttl).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let renewal = store.renew_process(&q, ttl).await.unwrap().value;
    assert_eq!(format!("{renewal:?}"), "Gone");
    let birth = store.create_process(&q, ttl).await.unwrap().value;
    assert_eq!(format!("{birth:?}"), "Exists");
}

#[tokio::test]
async fn pages_are_whole_bytewise_ordered_and_bounded() {
    let place = Place::new();
    let store = place.open().await;
    let p = common::born(&store, 1).await;
    let mut names: Vec<String> = (0..700).map(|n| format!("key/{n:04}")).collect();
    names.extend(["key".into(), "key0".into(), "KEY/1".into(), "kez".into()]);
    for (seq, name) in (0..).zip(&names) {
        let owner = common::owner(name, &p, seq);
        store.try_create(&common::claim(&owner)).await.unwrap();
        if seq % 10 == 3 {
            store.release(&owner).await.unwrap();
        }
    }
    let mut expected: Vec<Key> = (0..)
        .zip(&names)
        .filter(|(seq, name)| seq % 10 != 3 && name.starts_with("key"))
        .map(|(_, name)| key(name))
        .collect();
    expected.sort();
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = Page { after, limit: 33 };
        let listing = store.list_locks("key", &page).await.unwrap().value;
        assert!(listing.items.len() <= 33);
        for item in listing.items {
            found.push(item.unwrap().data.owner.key().clone());
        }
        after = listing.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn namespaces_in_one_file_never_meet() {
    use locker_core::Connect;
    use locker_core::backend::Side;
    use locker_sqlite::Sqlite;
    let place = Place::new();
    let one = place.open().await;
    let other = Sqlite::new(place.path()).namespace("other");
    let other = other.connect(Side::Caller).await.unwrap();
    let p = common::born(&one, 1).await;
    let x = common::owner("k", &p, 1);
    common::granted(one.try_create(&common::claim(&x)).await.unwrap().value);
    assert_eq!(other.read_lock(&key("k")).await.unwrap().value, None);
    let claimed = other.try_create(&common::claim(&x)).await.unwrap().value;
    assert_eq!(format!("{claimed:?}"), "OwnerDead");
    let q = common::born(&other, 2).await;
    let y = common::owner("k", &q, 1);
    common::granted(other.try_create(&common::claim(&y)).await.unwrap().value);
    assert_eq!(other.sweep(Duration::ZERO).await.unwrap().value, 0);
}

#[tokio::test]
async fn a_batch_answers_in_order_for_more_keys_than_its_limit() {
    let place = Place::new();
    let store = place.open().await;
    let p = common::born(&store, 1).await;
    let owners: Vec<_> = (0..150)
        .map(|n| common::owner(&format!("k{n}"), &p, n))
        .collect();
    for owner in owners.iter().step_by(2) {
        common::granted(store.try_create(&common::claim(owner)).await.unwrap().value);
    }
    for answers in [
        store.check(&owners).await.unwrap().value,
        store.extend(&owners, common::LONG).await.unwrap().value,
    ] {
        for (n, answer) in answers.into_iter().enumerate() {
            let expected = if n % 2 == 0 { "Mine" } else { "Absent" };
            assert_eq!(format!("{:?}", answer.unwrap()), expected, "{n}");
        }
    }
}

#[tokio::test]
async fn sweep_forgets_what_is_free_and_old_and_keeps_the_rest() {
    let place = Place::new();
    let store = place.open().await;
    let p = common::born(&store, 1).await;
    let q = common::born(&store, 2).await;
    store.retire_process(&q).await.unwrap();
    for n in 0..600 {
        let owner = common::owner(&format!("k{n}"), &p, n);
        store.try_create(&common::claim(&owner)).await.unwrap();
        if n >= 2 {
            store.release(&owner).await.unwrap();
        }
    }
    let kept = store.sweep(Duration::from_secs(3600)).await.unwrap().value;
    assert_eq!(kept, 0, "younger than the retention");
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap().value, 599);
    let mut raw = place.raw().await;
    assert_eq!(
        common::number(&mut raw, "SELECT count(*) FROM locks").await,
        2
    );
    let alive = store.read_process(&p).await.unwrap().value;
    assert!(matches!(alive, locker_core::backend::Liveness::Alive(_)));
}
