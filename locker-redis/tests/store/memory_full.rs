//! Attack 23, F17: a server whose memory is full. What keeps locks and gives them back works; what
//! takes memory is refused, and has done nothing.

use super::*;
use futures_util::StreamExt;
use locker_core::backend::{Birth, Hint, Liveness, Released, Renewal, Settlement, Standing};
use locker_core::{Effect, ErrorKind};
use std::fmt::Debug;

fn refused<T: Debug>(answer: Result<T, BackendError>, what: &str) {
    let error = answer.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error:?}");
    assert_eq!(error.effect(), Effect::NotApplied, "{what}: {error:?}");
}

#[tokio::test]
async fn locks_are_kept_and_given_back_when_memory_is_full() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    let dying = Process::born(server.url(), "ns").await;
    let [one, two, three] = [
        a.acquire("one").await,
        a.acquire("two").await,
        a.acquire("three").await,
    ];
    let deserted = dying.acquire("deserted").await;
    let mut waiting = b.watch("one").await.unwrap();
    let memory = |limit| {
        server
            .node()
            .command(&["CONFIG", "SET", "maxmemory", limit])
            .unwrap()
    };
    memory("1");

    let renewed = a
        .backend
        .renew_process(&a.hash, LONG * 2)
        .await
        .unwrap()
        .value;
    assert_eq!(
        renewed,
        Renewal::Renewed {
            valid_for: LONG * 2
        }
    );
    let owners = [one.clone(), two.clone()];
    let extended = a.backend.extend(&owners, LONG * 2).await.unwrap().value;
    for standing in extended {
        assert_eq!(standing.unwrap(), Standing::Mine);
    }
    let held = a
        .backend
        .read_lock(&key("one"))
        .await
        .unwrap()
        .value
        .unwrap();
    assert!(held.free_in > LONG, "it was extended: {:?}", held.free_in);
    assert!(matches!(held.holder, Some(Liveness::Alive(_))), "{held:?}");

    assert_eq!(a.backend.release(&one).await.unwrap().value, Released::Done);
    assert_eq!(waiting.next().await, Some(Hint::Free { place: 0 }));
    let settled = a
        .backend
        .settle(&two, StoreTime::from_micros(0))
        .await
        .unwrap()
        .value;
    assert_eq!(settled, Settlement::Final(Released::Done));
    dying.backend.retire_process(&dying.hash).await.unwrap();
    let dead = b.backend.read_process(&dying.hash).await.unwrap().value;
    assert_eq!(dead, Liveness::Dead);

    // A claim that is repeated takes nothing new.
    token(&a.create(&three).await.unwrap());
    refused(b.create(&b.owner("one")).await, "a create");
    let held = b
        .backend
        .read_lock(deserted.key())
        .await
        .unwrap()
        .value
        .unwrap();
    let taking = b
        .backend
        .take_over(&claim(&b.owner("deserted")), &held.observed)
        .await;
    refused(taking, "a take-over");
    let unborn = Process::unborn(server.url(), "ns").await;
    refused(
        unborn.backend.create_process(&unborn.hash, LONG).await,
        "a birth",
    );
    refused(b.watch("new").await.map(|_| ()), "a watch");

    memory("0");
    b.acquire("one").await;
    let birth = unborn
        .backend
        .create_process(&unborn.hash, LONG)
        .await
        .unwrap()
        .value;
    assert_eq!(birth, Birth::Created { valid_for: LONG });
}
