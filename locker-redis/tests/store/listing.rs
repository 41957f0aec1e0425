//! Listings over more keys than one step looks at.

use super::*;
use locker_core::backend::{Cursor, Page};
use locker_core::{Effect, ErrorKind};
use std::collections::BTreeSet;

async fn listed(process: &Process, prefix: &str, limit: u32) -> Vec<String> {
    let mut keys = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = Page { after, limit };
        let listing = process
            .backend
            .list_locks(prefix, &page)
            .await
            .unwrap()
            .value;
        assert!(listing.items.len() <= limit as usize);
        for item in listing.items {
            keys.push(item.unwrap().data.owner.key().to_string());
        }
        match listing.next {
            Some(next) => after = Some(next),
            None => return keys,
        }
    }
}

#[tokio::test]
async fn every_lock_is_listed_once_among_many() {
    for url in urls() {
        let namespace = fresh("many");
        let a = Process::born(&url, &namespace).await;
        let mut expected = BTreeSet::new();
        for number in 0..1_200 {
            let name = format!("job/{number}");
            let owner = a.acquire(&name).await;
            if number % 3 == 0 {
                a.backend.release(&owner).await.unwrap();
            } else {
                expected.insert(name);
            }
        }
        for limit in [7, 100, 5_000] {
            let keys = listed(&a, "job/", limit).await;
            assert_eq!(keys.len(), expected.len(), "pages of {limit} on {url}");
            assert_eq!(BTreeSet::from_iter(keys), expected, "pages of {limit}");
        }
        assert!(listed(&a, "other", 10).await.is_empty());
    }
}

/// Without their addresses the primaries cannot be walked one after the other, and asking again
/// changes nothing about it. What goes by slots works all the same.
#[tokio::test]
async fn a_cluster_that_tells_no_addresses_is_configured_wrongly_for_a_listing() {
    let setup = Setup::new().line("cluster-preferred-endpoint-type unknown-endpoint");
    let servers = Cluster::start(&setup, 3, 0).unwrap();
    let a = Process::born(servers.url(), "ns").await;
    let owner = a.acquire("k").await;
    let page = Page {
        after: None,
        limit: 10,
    };
    let listed = a.backend.list_locks("", &page).await.map(drop);
    let processes = a.backend.list_processes(&page).await.map(drop);
    for error in [listed, processes].map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert_eq!(error.effect(), Effect::NotApplied, "{error:?}");
        assert!(error.to_string().contains("address"), "{error}");
    }
    a.backend.release(&owner).await.unwrap();
}
