//! Listings: for people and tools, in pages, each thing once.

use crate::case::{Case, Process};
use locker_core::backend::{Page, Released};
use locker_core::{Key, ProcessHash};
use std::collections::BTreeSet;

/// How many pages a listing of a handful of things may have before it counts as endless.
const PAGES: usize = 200;

/// The keys of all pages. The contract promises no order; it does promise each key once.
async fn keys(process: &Process, prefix: &str, limit: u32) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut page = Page { after: None, limit };
    for _ in 0..PAGES {
        let listing = process.list_locks(prefix, &page).await;
        assert!(
            listing.items.len() <= limit as usize,
            "a page of {limit} has {} items",
            listing.items.len()
        );
        for item in listing.items {
            let held = item.expect("what the store wrote itself can be read");
            let key = held.data.owner.key().to_string();
            assert!(keys.insert(key), "{} is listed twice", held.data.owner);
        }
        match listing.next {
            Some(next) => page.after = Some(next),
            None => return keys,
        }
    }
    panic!("the listing does not end: {keys:?}");
}

async fn processes(process: &Process, limit: u32) -> BTreeSet<ProcessHash> {
    let mut found = BTreeSet::new();
    let mut page = Page { after: None, limit };
    for _ in 0..PAGES {
        let listing = process.list_processes(&page).await;
        for item in listing.items {
            let data = item.expect("what the store wrote itself can be read");
            assert!(
                found.insert(data.process.clone()),
                "{} is listed twice",
                data.process
            );
        }
        match listing.next {
            Some(next) => page.after = Some(next),
            None => return found,
        }
    }
    panic!("the listing does not end: {found:?}");
}

async fn hold(process: &Process, names: &[&str]) -> Vec<locker_core::OwnerHash> {
    let mut owners = Vec::new();
    for name in names {
        let key = Key::new(name).expect("the name is a key");
        owners.push(process.acquire(&key).await.owner);
    }
    owners
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

/// An empty namespace lists nothing, on one page.
pub async fn an_empty_store_lists_nothing(case: Case) {
    let process = case.unborn().await;
    assert!(keys(&process, "", 10).await.is_empty());
    assert!(processes(&process, 10).await.is_empty());
}

/// Every held lock is listed once, whatever the size of the pages.
pub async fn every_held_lock_is_listed_once(case: Case) {
    let [a, b] = case.processes().await;
    let names = ["b/1", "a/1", "a/2", "c", "a/10", "b", "a"];
    hold(&a, &names[..4]).await;
    hold(&b, &names[4..]).await;
    for limit in [1, 2, 3, 7, 100] {
        assert_eq!(
            keys(&a, "", limit).await,
            set(&names),
            "in pages of {limit}"
        );
    }
}

/// A listed lock is the whole answer of `read_lock`.
pub async fn a_listed_lock_is_as_it_is_read(case: Case) {
    let process = case.process().await;
    let key = case.key();
    process.acquire(&key).await;
    let page = Page {
        after: None,
        limit: 10,
    };
    let mut items = process.list_locks("", &page).await.items;
    assert_eq!(items.len(), 1);
    let listed = items
        .remove(0)
        .expect("what the store wrote itself can be read");
    let read = process.observe(&key).await;
    assert_eq!(listed.data, read.data);
    assert_eq!(listed.observed, read.observed);
    assert_eq!(listed.marked, read.marked);
}

/// The prefix is a text, not a pattern, and it is compared byte by byte.
pub async fn only_keys_with_the_prefix_are_listed(case: Case) {
    let process = case.process().await;
    let names = [
        "a%b", "a_b", "axb", "a*b", "A%b", "a", "a\\%b", "ä", "a'b", "a[x]b", "b",
    ];
    hold(&process, &names).await;
    for prefix in [
        "a%", "a_", "a*", "a", "A", "a\\", "ä", "a'", "a[", "b", "?", "%", "",
    ] {
        let expected: Vec<&str> = names
            .into_iter()
            .filter(|name| name.starts_with(prefix))
            .collect();
        for limit in [2, 100] {
            let listed = keys(&process, prefix, limit).await;
            assert_eq!(
                listed,
                set(&expected),
                "prefix {prefix:?} in pages of {limit}"
            );
        }
    }
}

/// What is free is not listed: neither released nor expired.
pub async fn free_locks_are_not_listed(case: Case) {
    let process = case.process().await;
    let owners = hold(&process, &["released", "held"]).await;
    assert_eq!(process.release(&owners[0]).await, Released::Done);
    let mut expected = set(&["held"]);
    let ttl = case.unit();
    let brief = Key::new("expired").expect("the name is a key");
    process.acquire_for(&brief, ttl).await;
    if case.expires_locks(process.limits()) {
        case.until("an expired lock reads as free", ttl, async || {
            process.read(&brief).await.is_none()
        })
        .await;
    } else {
        expected.insert("expired".into());
    }
    assert_eq!(keys(&process, "", 10).await, expected);
}

/// A listing that goes on while locks come and go misses nothing that was there throughout.
pub async fn a_listing_survives_changes_between_its_pages(case: Case) {
    let process = case.process().await;
    let names = ["k1", "k2", "k3", "k4", "k5", "k6"];
    let owners = hold(&process, &names).await;
    let first = process
        .list_locks(
            "k",
            &Page {
                after: None,
                limit: 2,
            },
        )
        .await;
    let gone: BTreeSet<String> = first
        .items
        .into_iter()
        .flatten()
        .map(|held| held.data.owner.key().to_string())
        .collect();
    // Whatever was listed goes, the place where the next page begins included.
    for owner in &owners {
        if gone.contains(owner.key().as_str()) {
            assert_eq!(process.release(owner).await, Released::Done);
        }
    }
    let mut rest = BTreeSet::new();
    let mut after = first.next;
    while let Some(cursor) = after {
        let page = Page {
            after: Some(cursor),
            limit: 2,
        };
        let listing = process.list_locks("k", &page).await;
        let items = listing.items.into_iter().flatten();
        rest.extend(items.map(|held| held.data.owner.key().to_string()));
        after = listing.next;
    }
    for name in names.iter().filter(|name| !gone.contains(**name)) {
        assert!(
            rest.contains(*name),
            "{name} was held throughout and is not listed"
        );
    }
}

/// Every living process is listed once; the dead are not.
pub async fn the_living_are_listed_once(case: Case) {
    let living = case.processes::<5>().await;
    let retired = case.process().await;
    retired.retire().await;
    let _unborn = case.unborn().await;
    let expected: BTreeSet<ProcessHash> = living
        .iter()
        .map(|process| process.hash().clone())
        .collect();
    for limit in [1, 2, 100] {
        assert_eq!(
            processes(&living[0], limit).await,
            expected,
            "in pages of {limit}"
        );
    }
}

/// A process that has lapsed is not listed as living.
pub async fn the_lapsed_are_not_listed(case: Case) {
    let looker = case.process().await;
    let ttl = case.unit();
    let lapsed = case.process_for(ttl).await;
    case.until(
        "a process that nobody renews is not listed",
        ttl,
        async || !processes(&looker, 10).await.contains(lapsed.hash()),
    )
    .await;
    assert!(processes(&looker, 10).await.contains(looker.hash()));
}
