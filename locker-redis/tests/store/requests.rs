//! How many requests an operation costs.

use super::*;
use locker_core::backend::{Liveness, Released};
use std::collections::BTreeMap;

/// Calls of every command that were not made by a script.
fn requests(server: &Server) -> BTreeMap<String, u64> {
    let stats: String = server.node().query(&["INFO", "commandstats"]).unwrap();
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let wanted = matches!(
            name,
            "evalsha" | "eval" | "scan" | "info" | "subscribe" | "ping"
        );
        let calls = rest.split(',').next()?.parse().ok()?;
        wanted.then(|| (name.to_owned(), calls))
    });
    calls.collect()
}

/// What was asked meanwhile.
async fn asked(server: &Server, during: impl Future<Output = ()>) -> BTreeMap<String, u64> {
    let before = requests(server);
    during.await;
    let mut after = requests(server);
    for (name, calls) in &mut after {
        *calls -= before.get(name).unwrap_or(&0);
    }
    // Looking is a request, too.
    after.retain(|name, calls| *calls > 0 && name != "info");
    after
}

fn evalsha(calls: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([("evalsha".to_owned(), calls)])
}

#[tokio::test]
async fn every_operation_on_one_server_is_one_request() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    // The scripts are known from here on.
    let warm = a.acquire("warm").await;
    let owner = a.owner("k");
    let free = async {
        token(&a.create(&owner).await.unwrap());
    };
    assert_eq!(asked(&server, free).await, evalsha(1), "a free lock");
    let contended = async {
        let refused = b.create(&b.owner("k")).await.unwrap();
        let Claimed::Held(held) = refused else {
            panic!("{refused:?}")
        };
        assert!(matches!(held.holder, Some(Liveness::Alive(_))), "{held:?}");
    };
    assert_eq!(asked(&server, contended).await, evalsha(1), "a held lock");
    let owners: Vec<OwnerHash> = vec![owner.clone(), warm];
    let extend = async {
        a.backend.extend(&owners, LONG).await.unwrap();
    };
    assert_eq!(asked(&server, extend).await, evalsha(1), "an extend of two");
    let release = async {
        assert_eq!(
            a.backend.release(&owner).await.unwrap().value,
            Released::Done
        );
    };
    assert_eq!(asked(&server, release).await, evalsha(1), "a release");
    let renewal = async {
        a.backend.renew_process(&a.hash, LONG).await.unwrap();
    };
    assert_eq!(asked(&server, renewal).await, evalsha(1), "a renewal");
    let owner = a.acquire("k").await;
    a.backend.retire_process(&a.hash).await.unwrap();
    let take_over = async {
        let refused = b.create(&b.owner("k")).await.unwrap();
        let Claimed::Held(held) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(held.data.owner, owner);
        let taken = b
            .backend
            .take_over(&claim(&b.owner("k")), &held.observed)
            .await;
        token(&taken.unwrap().value);
    };
    assert_eq!(
        asked(&server, take_over).await,
        evalsha(2),
        "a dead holder's lock"
    );
}

/// L7: 130 locks are three batches.
#[tokio::test]
async fn many_locks_are_extended_in_batches() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let mut owners = Vec::new();
    for number in 0..130 {
        owners.push(a.acquire(&format!("k{number}")).await);
    }
    let extend = async {
        let answers = a.backend.extend(&owners, LONG).await.unwrap().value;
        assert_eq!(answers.iter().flatten().count(), 130);
    };
    assert_eq!(asked(&server, extend).await, evalsha(3));
}
