//! A cluster in trouble: full, without a quorum, wiped, restored. What it answers is what the
//! mapping of errors says, and what was promised stays so.
// Tests may unwrap, also in what they share.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    LONG, acquire, born, claim, connect, create, key, open, owner, raw, server, server_as, store,
};
use locker_core::backend::{
    Birth, Claimed, Liveness, Released, Renewal, Settlement, Side, Watcher,
};
use locker_core::{Connect, Effect, ErrorKind, StoreTime};
use locker_etcd::Etcd;
use locker_testkit::servers::etcd::{Cluster, Setup};
use std::time::{Duration, Instant};

const FAR: StoreTime = StoreTime::from_micros(u64::MAX);

/// F21: a full store refuses what is new; who holds a lock keeps it and gives it back.
#[tokio::test]
async fn a_full_store_still_renews_and_releases() {
    let server = server_as(&Setup::new().flag("quota-backend-bytes", "4194304"));
    let (a, mut raw) = (open(&server).await, raw(&server).await);
    let process = born(&a, 1).await;
    let (one, two) = (owner("one", &process, 1), owner("two", &process, 2));
    acquire(&a, &one).await;
    acquire(&a, &two).await;
    let mut number = 0;
    while raw
        .put(format!("fill/{number}"), vec![b'x'; 500_000], None)
        .await
        .is_ok()
    {
        number += 1;
    }
    let error = a
        .try_create(&claim(&owner("new", &process, 3)))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Busy, Effect::Unknown),
        "{error:?}"
    );
    let error = a
        .create_process(&common::process(2), LONG)
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Busy, Effect::Unknown),
        "{error:?}"
    );

    let renewed = a.renew_process(&process, LONG).await.unwrap().value;
    assert!(matches!(renewed, Renewal::Renewed { .. }));
    let settled = a.settle(&one, FAR).await.unwrap().value;
    assert_eq!(
        settled,
        Settlement::Open(Released::Done),
        "nothing could be put"
    );
    assert_eq!(a.release(&two).await.unwrap().value, Released::Done);
    assert_eq!(a.read_lock(&key("one")).await.unwrap().value, None);
    a.retire_process(&process).await.unwrap();
    assert_eq!(common::liveness(&a, &process).await, Liveness::Dead);
}

/// F21: without a quorum nothing is answered wrongly, and with it everything goes on.
#[tokio::test]
async fn without_a_quorum_nothing_is_granted_and_nothing_is_called_dead() {
    let mut cluster = Cluster::start(&Setup::new(), 3)
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let store = Etcd::from_url(cluster.url()).unwrap();
    let a = connect(&store).await;
    let process = born(&a, 1).await;
    acquire(&a, &owner("k", &process, 1)).await;
    for member in &mut cluster.members_mut()[1..] {
        member.kill().unwrap();
    }
    let limit = Duration::from_millis(1500);
    let asked = tokio::time::timeout(limit, async {
        let a = store.connect(Side::Upkeep).await?;
        a.read_process(&process).await
    });
    if let Ok(answer) = asked.await {
        let error = answer.unwrap_err();
        assert!(error.kind().is_transient(), "{error:?}");
    }
    for member in &mut cluster.members_mut()[1..] {
        member.start().unwrap();
    }
    cluster.leader().unwrap();
    let began = Instant::now();
    let a = loop {
        match store.connect(Side::Caller).await {
            Ok(a) => break a,
            Err(error) => {
                assert!(error.kind().is_transient(), "{error:?}");
                assert!(began.elapsed() < Duration::from_secs(20), "{error:?}");
            }
        }
    };
    acquire(&a, &owner("next", &process, 2)).await;
}

/// F21: the death of the leader costs no lock.
#[tokio::test]
async fn the_death_of_the_leader_costs_no_lock() {
    let mut cluster = Cluster::start(&Setup::new(), 3)
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let store = Etcd::from_url(cluster.url()).unwrap();
    let a = connect(&store).await;
    let process = born(&a, 1).await;
    let mine = owner("k", &process, 1);
    let token = acquire(&a, &mine).await;
    let leader = cluster.leader().unwrap();
    cluster.members_mut()[leader].kill().unwrap();
    let began = Instant::now();
    // As the driver does: ask, and open another connection after a failure.
    let again = loop {
        let asked = tokio::time::timeout(Duration::from_millis(1500), async {
            let a = store.connect(Side::Caller).await?;
            a.try_create(&claim(&mine)).await
        });
        match asked.await {
            Ok(Ok(reply)) => break reply.value,
            Ok(Err(error)) => assert!(error.kind().is_transient(), "{error:?}"),
            Err(_) => {}
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "no leader follows"
        );
    };
    assert_eq!(again, Claimed::Granted(token));
}

/// F15, attack 34c: a wiped cluster keeps its id and begins again at revision 1; tokens do not.
#[tokio::test]
async fn tokens_grow_across_a_wiped_cluster() {
    let mut server = server();
    let store = store(&server);
    let a = connect(&store).await;
    let process = born(&a, 1).await;
    let mut last = acquire(&a, &owner("k", &process, 1)).await;
    for round in 0..2 {
        server.start_empty().unwrap();
        // The locker that lives on, and one that knows nothing.
        let a = if round == 0 {
            connect(&store).await
        } else {
            open(&server).await
        };
        assert_eq!(common::liveness(&a, &process).await, Liveness::Dead);
        let next = born(&a, 2 + round).await;
        let token = acquire(&a, &owner("k", &next, 1)).await;
        assert!(token > last, "{token} after {last}");
        last = token;
    }
}

/// Attack 34c: so does a cluster that is restored from a snapshot, under a process that lives in the
/// snapshot and knows the base. Its revision went back, which is reported.
#[tokio::test]
async fn tokens_grow_across_a_restored_cluster_and_the_living_are_told() {
    let mut server = server();
    let store = store(&server);
    let a = connect(&store).await;
    let process = born(&a, 1).await;
    let began = Instant::now();
    server.member_mut().kill().unwrap();
    let (data, copy) = {
        let folder = server.member().folder();
        (folder.join("data"), folder.join("copy"))
    };
    copy_tree(&data, &copy);
    server.member_mut().start_again().unwrap();
    let a = connect(&store).await;
    let mut last = None;
    for seq in 0..50 {
        let mine = owner("k", &process, seq);
        last = Some(acquire(&a, &mine).await);
        a.release(&mine).await.unwrap();
    }
    server.member_mut().kill().unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    server.member_mut().start_again().unwrap();
    // The base is left alone while it is hardly behind: nobody's snapshot is younger than this.
    while began.elapsed() < Duration::from_millis(1100) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let a = connect(&store).await;
    let claimed = create(&a, &owner("k", &process, 100)).await;
    let token = common::granted(claimed);
    assert!(Some(token) > last, "{token} after {last:?}");
}

/// The same on a connection that lives on: the first claim counts for nothing.
#[tokio::test]
async fn a_grant_at_a_revision_that_went_back_counts_for_nothing() {
    let server = server();
    let store = store(&server);
    let a = connect(&store).await;
    let process = born(&a, 1).await;
    acquire(&a, &owner("warm", &process, 0)).await;
    // As if this locker had seen a later life of the cluster.
    let ahead = common::server();
    let mut raw = raw(&ahead).await;
    for _ in 0..60 {
        raw.put("x", "y", None).await.unwrap();
    }
    drop(raw);
    let other = store.clone().client(common::raw(&ahead).await);
    other.connect(Side::Caller).await.unwrap();
    let error = a
        .try_create(&claim(&owner("k", &process, 1)))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Unavailable, Effect::Unknown)
    );
    assert!(error.to_string().contains("went back"), "{error}");
    // What it may have written is settled, and the next claim is granted.
    let settled = a.settle(&owner("k", &process, 1), FAR).await.unwrap().value;
    assert_eq!(settled, Settlement::Final(Released::Done));
    acquire(&a, &owner("k", &process, 2)).await;
}

/// Every text of etcd that the mapping knows by heart, from a real server, as far as one can be
/// made to say it.
#[tokio::test]
async fn births_and_watches_of_the_used_and_the_dead_are_no_errors() {
    let server = server();
    let a = open(&server).await;
    let process = born(&a, 1).await;
    let again = a.create_process(&process, LONG).await.unwrap().value;
    assert_eq!(again, Birth::Exists, "lease already exists");
    a.retire_process(&process).await.unwrap();
    a.retire_process(&process).await.unwrap();
    let again = a.create_process(&process, LONG).await.unwrap().value;
    assert_eq!(again, Birth::Exists, "the name is remembered");
    let watcher = Watcher::Waiter(process.clone());
    let _ended = a.watch(&key("k"), &watcher).await.unwrap();
    assert_eq!(
        create(&a, &owner("k", &process, 1)).await,
        Claimed::OwnerDead
    );
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
