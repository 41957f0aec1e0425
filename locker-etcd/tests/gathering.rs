//! What several tasks ask for at the same time is one transaction; what one of them does wrong is
//! nothing to the others.
// Tests may unwrap, also in what they share.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    acquire, born, claim, connect, create, granted, key, lease, open, owner, process_key, raw,
    server, server_as, store,
};
use etcd_client::Client;
use futures_util::future::join_all;
use locker_core::backend::{Answer, Claimed, Released, Settlement};
use locker_core::{Backend, BackendError, Effect, ErrorKind, OwnerHash, StoreTime};
use locker_testkit::servers::etcd::{Server, Setup};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

const FAR: StoreTime = StoreTime::from_micros(u64::MAX);

/// How many transactions this server has answered.
fn transactions(server: &Server) -> u64 {
    answered(server, "OK")
}

/// How many transactions were answered with this code.
fn answered(server: &Server, code: &str) -> u64 {
    let name = format!(
        "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"Txn\",\
         grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}}"
    );
    let value = server.member().metric(&name);
    value.map_or(0, |value| value.parse().unwrap())
}

async fn create_all(store: &Arc<dyn Backend>, owners: &[OwnerHash]) -> Vec<Answer<Claimed>> {
    let claims: Vec<_> = owners.iter().map(claim).collect();
    join_all(claims.iter().map(|claim| store.try_create(claim))).await
}

/// Asks in a task of its own, and has asked when this answers.
async fn begin(
    store: &Arc<dyn Backend>,
    owner: &OwnerHash,
) -> JoinHandle<Result<Claimed, BackendError>> {
    let (store, claim) = (Arc::clone(store), claim(owner));
    let asking =
        tokio::spawn(async move { store.try_create(&claim).await.map(|reply| reply.value) });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    asking
}

/// The first is sent at once by its own caller; the others gather behind it. Half as many as one
/// transaction takes stay together, more are two halves.
#[tokio::test]
async fn what_is_asked_for_at_once_travels_in_few_transactions() {
    for (asked, sent) in [(31, 2), (61, 3)] {
        let server = server();
        let a = open(&server).await;
        let process = born(&a, 1).await;
        let owners: Vec<OwnerHash> = (0..asked)
            .map(|number| owner(&format!("k{number}"), &process, number))
            .collect();
        let before = transactions(&server);
        for claimed in create_all(&a, &owners).await {
            granted(claimed.unwrap().value);
        }
        assert_eq!(transactions(&server) - before, sent, "of {asked} claims");
        // Until the gate is at rest, the first would travel with the others.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = transactions(&server);
        for released in join_all(owners.iter().map(|owner| a.release(owner))).await {
            assert_eq!(released.unwrap().value, Released::Done);
        }
        assert_eq!(transactions(&server) - before, sent, "of {asked} releases");
    }
}

#[tokio::test]
async fn a_lone_operation_is_one_transaction() {
    let server = server();
    let a = open(&server).await;
    let process = born(&a, 1).await;
    let before = transactions(&server);
    for round in 1..=10 {
        let mine = owner("k", &process, round);
        acquire(&a, &mine).await;
        assert_eq!(transactions(&server) - before, 2 * round - 1);
        a.release(&mine).await.unwrap();
        assert_eq!(transactions(&server) - before, 2 * round);
    }
}

/// Attack 3: the lease of one of them is gone, although the record of its process is not. etcd
/// refuses the whole transaction for it.
#[tokio::test]
async fn a_member_that_etcd_refuses_is_refused_alone() {
    let server = server();
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let (process, broken) = (born(&a, 1).await, born(&a, 2).await);
    let lease = lease(&mut raw, &broken).await;
    let record = raw.get(process_key(&broken), None).await.unwrap();
    let record = record.kvs()[0].value().to_vec();
    raw.put(process_key(&broken), record, None).await.unwrap();
    raw.lease_revoke(lease).await.unwrap();
    let mine = owner("k", &broken, 1);
    let learns = create(&a, &mine).await;
    assert_eq!(
        learns,
        Claimed::TooLate,
        "its record is not what it was born with"
    );

    let mut owners: Vec<_> = (0..4)
        .map(|number| owner(&format!("k{number}"), &process, number))
        .collect();
    owners.insert(2, mine);
    for (owner, claimed) in owners.iter().zip(create_all(&a, &owners).await) {
        if *owner.process() == broken {
            let error = claimed.unwrap_err();
            let told = (error.kind(), error.effect());
            assert_eq!(told, (ErrorKind::Rejected, Effect::NotApplied), "{error:?}");
        } else {
            granted(claimed.unwrap().value);
        }
    }
}

/// Of a batch whose connection was lost nothing is known, and that is told to every member.
#[tokio::test]
async fn when_the_connection_is_lost_under_a_batch_all_of_it_is_unknown() {
    let mut server = server();
    let a = open(&server).await;
    let process = born(&a, 1).await;
    acquire(&a, &owner("warm", &process, 0)).await;
    server.member().pause().unwrap();
    let owners: Vec<_> = (0..10)
        .map(|number| owner(&format!("k{number}"), &process, number))
        .collect();
    let asked = tokio::spawn(async move { create_all(&a, &owners).await });
    // One alone and nine together are in the kernel's hands.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.member_mut().kill().unwrap();
    for claimed in asked.await.unwrap() {
        let error = claimed.unwrap_err();
        let told = (error.kind(), error.effect());
        assert_eq!(told, (ErrorKind::Unavailable, Effect::Unknown), "{error:?}");
    }
}

/// Attack 1: a claim that waits in the queue while its owner is settled bears what was known before.
#[tokio::test]
async fn a_claim_in_the_queue_is_refused_once_its_owner_was_settled() {
    let server = server();
    let store = store(&server);
    let (a, upkeep) = (connect(&store).await, connect(&store).await);
    let process = born(&a, 1).await;
    acquire(&a, &owner("warm", &process, 0)).await;
    server.member().pause().unwrap();
    let lone = begin(&a, &owner("first", &process, 1)).await;
    let batch = begin(&a, &owner("second", &process, 2)).await;
    let settled = owner("settled", &process, 3);
    let queued = begin(&a, &settled).await;
    let settling = {
        let (upkeep, settled) = (Arc::clone(&upkeep), settled.clone());
        tokio::spawn(async move { upkeep.settle(&settled, FAR).await.unwrap().value })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.member().resume().unwrap();
    assert_eq!(
        settling.await.unwrap(),
        Settlement::Final(Released::Absent),
        "it was not sent before"
    );
    assert_eq!(queued.await.unwrap().unwrap(), Claimed::TooLate);
    assert_eq!(upkeep.read_lock(&key("settled")).await.unwrap().value, None);
    for asked in [lone, batch] {
        let claimed = asked.await.unwrap().unwrap();
        let known = matches!(claimed, Claimed::Granted(_) | Claimed::TooLate);
        assert!(known, "{claimed:?}");
    }
}

/// F21: etcd's quota does not count what nested transactions put. A batch is refused all the same, and
/// may have been applied: nobody in it is told more than that. A release finds room without company.
#[tokio::test]
async fn a_full_store_refuses_a_batch_with_something_new_and_leaves_a_doubt() {
    let server = server_as(&Setup::new().flag("quota-backend-bytes", "4194304"));
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let process = born(&a, 1).await;
    let held = owner("held", &process, 0);
    acquire(&a, &held).await;
    fill(&mut raw).await;
    let before = answered(&server, "ResourceExhausted");
    let first = begin(&a, &owner("first", &process, 1)).await;
    let others: Vec<_> = (2..8)
        .map(|number| owner(&format!("k{number}"), &process, number))
        .collect();
    let (claimed, released) = tokio::join!(create_all(&a, &others), a.release(&held));
    let refused = answered(&server, "ResourceExhausted") - before;
    assert!(refused <= 3, "{refused} refused: they were sent again");
    let claimed = claimed.into_iter().map(|reply| reply.map(drop));
    let first = first.await.unwrap().map(drop);
    for refused in claimed.chain([released.map(drop), first]) {
        let error = refused.unwrap_err();
        let told = (error.kind(), error.effect());
        assert_eq!(told, (ErrorKind::Busy, Effect::Unknown), "{error:?}");
    }
    assert_eq!(a.release(&held).await.unwrap().value, Released::Done);
    for owner in &others {
        assert_eq!(a.read_lock(owner.key()).await.unwrap().value, None);
    }
}

async fn fill(raw: &mut Client) {
    let mut number = 0;
    while raw
        .put(format!("fill/{number}"), vec![b'x'; 500_000], None)
        .await
        .is_ok()
    {
        number += 1;
    }
}
