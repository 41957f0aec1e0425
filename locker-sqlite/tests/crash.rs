//! Crashes, seen by the kernel at once, and what must not be mistaken for one (attack 13).
#![allow(clippy::unwrap_used)] // A test.

mod common;

use common::{LONG, Place, Ready, born, claim, granted, held, key, owner, process, until};
use locker_core::backend::{Claimed, Liveness as Standing, Renewal, Side};
use locker_core::{Connect, ErrorKind};
use locker_sqlite::{Liveness, Sqlite};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// Children of this binary.
#[tokio::test]
async fn child() {
    let Some((role, path)) = common::role() else {
        return;
    };
    match role.as_str() {
        "owner" => {
            let store = common::open(&path).await.unwrap();
            let me = born(&store, 77).await;
            granted(
                store
                    .try_create(&claim(&owner("k", &me, 1)))
                    .await
                    .unwrap()
                    .value,
            );
            println!("\nready {me}");
            std::future::pending::<()>().await;
        }
        "writer" => {
            let mut raw = common::raw(&path).await;
            common::sql(&mut raw, "BEGIN IMMEDIATE; DELETE FROM waiters;").await;
            println!("\nready");
            std::future::pending::<()>().await;
        }
        "prober" => {
            let store = common::open(&path).await.unwrap();
            let birth = store.create_process(&process(99), LONG).await;
            println!("\nended {birth:?}");
        }
        other => panic!("no such role: {other}"),
    }
}

#[tokio::test]
async fn a_killed_owner_is_dead_at_once_and_its_lock_is_taken_over() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut owner_child = Ready::spawn("owner", &place.path());
    let mine = claim(&owner("k", &me, 1));
    let seen = held(store.try_create(&mine).await.unwrap().value);
    assert!(matches!(seen.holder, Some(Standing::Alive(_))));
    let refused = store.take_over(&mine, &seen.observed).await.unwrap().value;
    assert!(
        matches!(refused, Claimed::Held(_)),
        "the living are not robbed"
    );

    owner_child.signal(Signal::SIGKILL);
    let start = Instant::now();
    let holder = seen.data.process().clone();
    until(async || store.read_process(&holder).await.unwrap().value == Standing::Dead).await;
    let taken = store.take_over(&mine, &seen.observed).await.unwrap().value;
    let after = start.elapsed();
    assert!(granted(taken) > seen.data.token);
    println!("kill to take-over: {after:?}");
    // Twice what is promised.
    assert!(
        after < Duration::from_millis(400),
        "L2 on this store: {after:?}"
    );
    owner_child.child.wait().unwrap();
}

#[tokio::test]
async fn a_stopped_owner_is_alive_until_its_own_deadline() {
    let place = Place::new();
    let store = place.open().await;
    let child = Ready::spawn("owner", &place.path());
    child.signal(Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let seen = store.read_lock(&key("k")).await.unwrap().value.unwrap();
    assert!(matches!(seen.holder, Some(Standing::Alive(_))));
}

/// Attack 13f: measured, and said in the README. Nobody writes, so nobody takes over either.
#[tokio::test]
async fn a_process_stopped_inside_a_write_stops_the_store_until_it_dies() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let writer = Ready::spawn("writer", &place.path());
    writer.signal(Signal::SIGSTOP);
    let start = Instant::now();
    let error = store.renew_process(&me, LONG).await.unwrap_err();
    let waited = start.elapsed();
    assert_eq!(error.kind(), ErrorKind::Busy);
    // A second wait would be as long.
    assert!(waited < Duration::from_millis(1900), "{waited:?}");
    // Reading needs no write lock.
    assert!(store.read_lock(&key("k")).await.is_ok());
    drop(writer);
    let renewed = store.renew_process(&me, LONG).await.unwrap().value;
    assert_eq!(renewed, Renewal::Renewed { valid_for: LONG });
}

#[tokio::test]
async fn two_lockers_of_one_process_see_each_other_alive_and_then_dead() {
    let place = Place::new();
    let (a, b) = (place.open().await, place.open().await);
    let (p, q) = (born(&a, 1).await, born(&b, 2).await);
    for store in [&a, &b] {
        for process in [&p, &q] {
            let read = store.read_process(process).await.unwrap().value;
            assert!(matches!(read, Standing::Alive(_)), "{process}");
        }
    }
    drop(a);
    until(async || b.read_process(&p).await.unwrap().value == Standing::Dead).await;
    let read = b.read_process(&q).await.unwrap().value;
    assert!(matches!(read, Standing::Alive(_)));
}

/// Attack 13d: the connections of a second locker come and go; the first one's byte stays, and so
/// do the locks that SQLite itself holds.
#[tokio::test]
async fn opening_and_closing_other_descriptors_kills_nobody() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    granted(
        store
            .try_create(&claim(&owner("k", &me, 1)))
            .await
            .unwrap()
            .value,
    );
    for nonce in 0..20 {
        let other = place.open().await;
        born(&other, 100 + nonce).await;
        drop(other);
        drop(Liveness::beside(place.path()).unwrap());
    }
    let watcher = place.open().await;
    let seen = watcher.read_lock(&key("k")).await.unwrap().value.unwrap();
    assert!(matches!(seen.holder, Some(Standing::Alive(_))));
}

/// The other half of attack 13d: SQLite itself locks by POSIX locks, which any `close` of the file in
/// this process would drop. Nothing here opens the database but through SQLite.
#[tokio::test]
async fn a_write_lock_survives_the_opening_and_closing_of_other_connections() {
    let place = Place::new();
    let store = place.open().await;
    born(&store, 1).await;
    let mut raw = place.raw().await;
    common::sql(&mut raw, "BEGIN IMMEDIATE; DELETE FROM waiters;").await;
    for _ in 0..5 {
        drop(place.open().await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let child = common::command("prober", &place.path()).spawn().unwrap();
    let answer = Ready::from(child).wait_for("ended");
    assert!(answer.contains("Busy"), "{answer}");
    common::sql(&mut raw, "ROLLBACK").await;
    let child = common::command("prober", &place.path()).spawn().unwrap();
    let answer = Ready::from(child).wait_for("ended");
    assert!(answer.contains("Created"), "{answer}");
}

#[tokio::test]
async fn the_three_connections_of_a_locker_share_one_life() {
    let place = Place::new();
    let locker = Sqlite::new(place.path());
    let caller = locker.connect(Side::Caller).await.unwrap();
    let reports = locker.connect(Side::Reports).await.unwrap();
    let me = born(&reports, 1).await;
    granted(
        caller
            .try_create(&claim(&owner("k", &me, 1)))
            .await
            .unwrap()
            .value,
    );
    // A report connection that is lost and made anew kills nobody.
    drop(reports);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let other = place.open().await;
    let read = other.read_process(&me).await.unwrap().value;
    assert!(matches!(read, Standing::Alive(_)));
    let reports = locker.connect(Side::Reports).await.unwrap();
    let renewed = reports.renew_process(&me, LONG).await.unwrap().value;
    assert_eq!(renewed, Renewal::Renewed { valid_for: LONG });
}

/// The keeper of the command line: locks end with the *last* holder of the descriptor.
#[tokio::test]
async fn a_duplicate_of_a_handed_in_descriptor_keeps_the_locks() {
    use std::os::fd::AsFd;
    let place = Place::new();
    let liveness = Liveness::beside(place.path()).unwrap();
    let keeper = liveness.as_fd().try_clone_to_owned().unwrap();
    let locker = Sqlite::new(place.path()).liveness(liveness);
    let store = locker.connect(Side::Caller).await.unwrap();
    let me = born(&store, 1).await;
    drop((locker, store));
    let other = place.open().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let read = other.read_process(&me).await.unwrap().value;
    assert!(matches!(read, Standing::Alive(_)));
    drop(keeper);
    until(async || other.read_process(&me).await.unwrap().value == Standing::Dead).await;

    let elsewhere = Liveness::beside(place.folder().join("other.db")).unwrap();
    let wrong = Sqlite::new(place.path()).liveness(elsewhere);
    let error = wrong.connect(Side::Caller).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

/// Attack 13e: owners of a removed database stop at their next report.
#[tokio::test]
async fn a_removed_database_is_the_loss_of_its_processes() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    for ending in ["", "-wal", "-shm"] {
        std::fs::remove_file(place.folder().join(format!("locks.db{ending}"))).unwrap();
    }
    assert_eq!(
        store.renew_process(&me, LONG).await.unwrap().value,
        Renewal::Gone
    );
    // Nothing was created by that report.
    assert!(!place.path().exists());

    // The store goes on at the path, as a new one, for everybody (L6).
    let other = place.open().await;
    let q = born(&other, 2).await;
    granted(
        other
            .try_create(&claim(&owner("k", &q, 1)))
            .await
            .unwrap()
            .value,
    );
    assert_eq!(
        store.renew_process(&me, LONG).await.unwrap().value,
        Renewal::Gone
    );
    let late = store.try_create(&claim(&x)).await.unwrap().value;
    assert_eq!(late, Claimed::OwnerDead);
    let again = born(&store, 3).await;
    let seen = held(
        store
            .try_create(&claim(&owner("k", &again, 1)))
            .await
            .unwrap()
            .value,
    );
    assert_eq!(seen.data.process(), &q);
}

/// The main file alone was removed: a new database would be mixed up with the old one's log.
#[tokio::test]
async fn a_database_removed_without_its_companions_is_not_created_anew() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    std::fs::remove_file(place.path()).unwrap();
    assert_eq!(
        store.renew_process(&me, LONG).await.unwrap().value,
        Renewal::Gone
    );
    let error = common::open(&place.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("locks.db-wal"), "{error}");
}

/// A missing liveness file means "unknown": the record alone decides.
#[tokio::test]
async fn a_removed_liveness_file_kills_nobody() {
    let place = Place::new();
    let old = place.open().await;
    let p = born(&old, 1).await;
    std::fs::remove_file(place.folder().join("locks.db.alive")).unwrap();
    let new = place.open().await;
    let q = born(&new, 2).await;
    for (store, process) in [(&new, &p), (&old, &q), (&old, &p), (&new, &q)] {
        let read = store.read_process(process).await.unwrap().value;
        assert!(matches!(read, Standing::Alive(_)), "{process}");
    }
    // Renewals go on: only the crash detector is blind.
    let renewed = old.renew_process(&p, LONG).await.unwrap().value;
    assert_eq!(renewed, Renewal::Renewed { valid_for: LONG });
    drop(old);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let read = new.read_process(&p).await.unwrap().value;
    assert!(matches!(read, Standing::Alive(_)), "only its TTL ends it");
}

/// As rare as 62 random bits that meet, and harmless: the second is not born, the first lives on.
#[tokio::test]
async fn two_incarnations_with_one_byte_are_not_both_born() {
    let place = Place::new();
    let (store, other) = (place.open().await, place.open().await);
    let first = born(&store, 5).await;
    let second = process(5 + (1 << 62));
    let error = other.create_process(&second, LONG).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for store in [&store, &other] {
        assert_eq!(
            store.read_process(&second).await.unwrap().value,
            Standing::Dead
        );
        let read = store.read_process(&first).await.unwrap().value;
        assert!(matches!(read, Standing::Alive(_)));
    }
}

/// A second birth of a living name changes nothing, and above all does not free its byte.
#[tokio::test]
async fn a_repeated_birth_leaves_the_living_alone() {
    let place = Place::new();
    let (store, other) = (place.open().await, place.open().await);
    let me = born(&store, 1).await;
    for store in [&store, &other] {
        let birth = store.create_process(&me, LONG).await.unwrap().value;
        assert_eq!(format!("{birth:?}"), "Exists");
        let read = other.read_process(&me).await.unwrap().value;
        assert!(matches!(read, Standing::Alive(_)));
    }
}

#[tokio::test]
async fn a_retired_process_is_dead_for_ever_and_frees_its_byte() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    store.retire_process(&me).await.unwrap();
    store.retire_process(&me).await.unwrap();
    assert_eq!(store.read_process(&me).await.unwrap().value, Standing::Dead);
    assert_eq!(
        store.renew_process(&me, LONG).await.unwrap().value,
        Renewal::Gone
    );
    // Another file description can have the byte now; the name cannot be born again.
    let other = place.open().await;
    let birth = other.create_process(&process(1), LONG).await.unwrap().value;
    assert_eq!(format!("{birth:?}"), "Exists");
}
