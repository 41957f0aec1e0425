//! Callers that go away, databases that are locked, rows that are damaged, disks that are full: what
//! is told, and that nothing is done that was withdrawn.
#![allow(clippy::unwrap_used)] // A test.

mod common;

use common::{LONG, Place, born, claim, granted, held, key, number, owner, process, sql};
use futures_util::FutureExt;
use locker_core::backend::{Claim, Claimed, Page, Released, Settlement, Side, Standing};
use locker_core::{Backend, Connect, Effect, ErrorKind, StoreTime};
use locker_sqlite::Sqlite;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Attack 2: a queued member whose caller went away is never executed; nor is one that waits for
/// the write lock.
#[tokio::test]
async fn a_withdrawn_request_is_never_executed() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut raw = place.raw().await;
    sql(&mut raw, "BEGIN IMMEDIATE").await;
    let (waiting, queued, kept) = (owner("a", &me, 1), owner("b", &me, 2), owner("c", &me, 3));
    let (first, second, third) = (claim(&waiting), claim(&queued), claim(&kept));
    let mut first = store.try_create(&first);
    let mut second = store.try_create(&second);
    let mut third = store.try_create(&third);
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_none());
    // The first is now waiting for the write lock, the others are in the queue.
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(first);
    drop(second);
    sql(&mut raw, "ROLLBACK").await;
    granted(third.await.unwrap().value);
    assert_eq!(number(&mut raw, "SELECT count(*) FROM locks").await, 1);
    assert_eq!(
        number(&mut raw, "SELECT count(*) FROM locks WHERE key = 'c'").await,
        1
    );
}

/// A caller that goes away at any moment leaves the connection usable and the store unlocked.
#[tokio::test]
async fn futures_dropped_at_any_moment_leave_the_store_usable() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    for n in 0..200 {
        let x = owner("k", &me, n);
        let wait = Duration::from_micros(n * 5);
        tokio::time::timeout(wait, store.try_create(&claim(&x)))
            .await
            .ok();
        // Whatever came of it, it can be settled.
        let released = store.release(&x).await.unwrap().value;
        assert!(
            matches!(released, Released::Done | Released::Absent),
            "{released:?}"
        );
    }
    assert_eq!(store.read_lock(&key("k")).await.unwrap().value, None);
}

#[tokio::test]
async fn another_writer_is_waited_for_within_the_busy_timeout_and_then_told() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut raw = place.raw().await;
    sql(&mut raw, "BEGIN IMMEDIATE").await;
    let x = owner("k", &me, 1);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let error = store.try_create(&claim(&x)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.effect()),
            (ErrorKind::Busy, Effect::NotApplied)
        );
        let waited = asked.elapsed();
        // A second wait would be as long.
        assert!(waited > Duration::from_millis(800) && waited < Duration::from_millis(1900));
        // Readers do not wait.
        let asked = Instant::now();
        assert_eq!(store.read_lock(&key("k")).await.unwrap().value, None);
        assert!(asked.elapsed() < Duration::from_millis(500));
    }
    sql(&mut raw, "ROLLBACK").await;
    granted(store.try_create(&claim(&x)).await.unwrap().value);
}

#[tokio::test]
async fn the_busy_timeout_can_be_chosen() {
    let place = Place::new();
    let store = Sqlite::new(place.path()).busy_timeout(Duration::from_millis(50));
    let store = store.connect(Side::Caller).await.unwrap();
    let mut raw = place.raw().await;
    sql(&mut raw, "BEGIN IMMEDIATE").await;
    let start = Instant::now();
    store.create_process(&process(1), LONG).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(500));
    // A birth that was certainly not applied leaves no byte behind: the name is free.
    sql(&mut raw, "ROLLBACK").await;
    let other = place.open().await;
    let birth = other.create_process(&process(1), LONG).await.unwrap().value;
    assert!(matches!(birth, locker_core::backend::Birth::Created { .. }));
}

/// Attack 13c: the clock is read after the write lock was obtained, so what expired during the wait
/// is not renewed by it.
#[tokio::test]
async fn a_renewal_that_waited_past_the_end_revives_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let p = process(1);
    store
        .create_process(&p, Duration::from_millis(200))
        .await
        .unwrap();
    let mut raw = place.raw().await;
    sql(&mut raw, "BEGIN IMMEDIATE").await;
    let mut renewal = store.renew_process(&p, LONG);
    assert!(renewal.as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_millis(400)).await;
    sql(&mut raw, "ROLLBACK").await;
    let renewed = renewal.await.unwrap().value;
    assert_eq!(format!("{renewed:?}"), "Gone");
}

/// Attack 1: a claim that waited past its `not_after` takes no effect, and a settlement with a later
/// time is final.
#[tokio::test]
async fn a_claim_that_waited_past_its_last_moment_is_too_late() {
    let place = Place::new();
    let (store, upkeep) = (place.patient().await, place.open().await);
    let me = born(&store, 1).await;
    let x = owner("k", &me, 1);
    let seen = store
        .read_lock(&key("k"))
        .await
        .unwrap()
        .store_time
        .unwrap();
    // Far enough for what is asked before.
    let not_after = seen + Duration::from_secs(1);
    let bounded = Claim {
        not_after,
        ..claim(&x)
    };
    let open = upkeep.settle(&x, not_after).await.unwrap().value;
    assert_eq!(open, Settlement::Open(Released::Absent));
    let mut raw = place.raw().await;
    sql(&mut raw, "BEGIN IMMEDIATE").await;
    let mut late = store.try_create(&bounded);
    assert!(late.as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_millis(1200)).await;
    sql(&mut raw, "ROLLBACK").await;
    assert_eq!(late.await.unwrap().value, Claimed::TooLate);
    let closed = upkeep.settle(&x, not_after).await.unwrap().value;
    assert_eq!(closed, Settlement::Final(Released::Absent));
}

#[test]
fn a_connection_outlives_the_runtime_that_opened_it() {
    let place = Place::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(place.open());
    drop(runtime);
    let other = tokio::runtime::Runtime::new().unwrap();
    other.block_on(born(&store, 1));
}

/// F06: a job may block its runtime at any moment, also between two statements of a step that it
/// has asked for.
#[test]
fn a_blocked_runtime_leaves_no_transaction_open() {
    let place = Place::new();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    };
    let (blocked, other) = (runtime(), runtime());
    let store = blocked.block_on(place.open());
    let another = other.block_on(place.open());
    let mut under_way = 0;
    for n in 0..40_u32 {
        let id = process(n.into());
        let mut step = store.create_process(&id, LONG);
        // The step is under way, more or less, when its runtime stops running.
        let early = blocked.block_on(async {
            let early = step.as_mut().now_or_never();
            for _ in 0..n {
                tokio::task::yield_now().await;
                std::thread::sleep(Duration::from_micros(20));
            }
            early
        });
        under_way += u32::from(early.is_none());
        other.block_on(born(&another, 100 + u128::from(n)));
        early.unwrap_or_else(|| blocked.block_on(step)).unwrap();
    }
    assert!(under_way > 0, "a busy machine may be slow, but not always");
}

#[tokio::test]
async fn a_dropped_backend_closes_its_connection() {
    let place = Place::new();
    let store = place.open().await;
    born(&store, 1).await;
    assert!(place.descriptors() >= 3);
    drop(store);
    place.closed().await;
}

/// S11, and attack 3: a record that cannot be read is an error of its own key and of no other.
#[tokio::test]
async fn damaged_rows_are_errors_of_their_own_keys() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let you = born(&store, 2).await;
    let owners: Vec<_> = (0..8).map(|n| owner(&format!("k{n}"), &me, n)).collect();
    for x in &owners {
        granted(store.try_create(&claim(x)).await.unwrap().value);
    }
    let mut raw = place.raw().await;
    sql(
        &mut raw,
        "UPDATE locks SET owner = 'nonsense' WHERE key = 'k1';
         UPDATE locks SET format = 99 WHERE key = 'k2';
         UPDATE locks SET token = -5 WHERE key = 'k3';
         UPDATE locks SET owner = CAST(x'FF00FE' AS TEXT) WHERE key = 'k4';
         UPDATE locks SET process = 'somebody/1.2' WHERE key = 'k5';
         UPDATE locks SET expires = NULL WHERE key = 'k6';",
    )
    .await;
    let before = number(&mut raw, "SELECT sum(length(owner)) FROM locks").await;
    for answers in [
        store.check(&owners).await.unwrap().value,
        store.extend(&owners, LONG).await.unwrap().value,
    ] {
        for (n, answer) in answers.into_iter().enumerate() {
            if n == 0 || n == 7 {
                assert_eq!(answer.unwrap(), Standing::Mine, "k{n}");
            } else {
                let error = answer.unwrap_err();
                let facts = (error.kind(), error.effect());
                assert_eq!(facts, (ErrorKind::Corrupt, Effect::NotApplied), "k{n}");
            }
        }
    }
    for n in 1..7 {
        let name = format!("k{n}");
        let mine = owner(&name, &you, n);
        for error in [
            store.try_create(&claim(&mine)).await.unwrap_err(),
            store.read_lock(&key(&name)).await.unwrap_err(),
            store.release(&mine).await.unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error:?}");
        }
    }
    let after = number(&mut raw, "SELECT sum(length(owner)) FROM locks").await;
    assert_eq!(after, before, "nothing was done to them");

    sql(
        &mut raw,
        "INSERT INTO locks (namespace, key, token, format, owner, process, acquired_at, extended_at, expires, marked)
         SELECT namespace, CAST(x'6BFF' AS TEXT), token, format, owner, process, acquired_at, extended_at, expires, 0
         FROM locks WHERE key = 'k0';
         INSERT INTO processes SELECT namespace, 'nonsense', alive_at, expires, device, inode, byte
         FROM processes WHERE process LIKE '%.1';",
    )
    .await;
    let page = Page {
        after: None,
        limit: 100,
    };
    let listing = store.list_locks("k", &page).await.unwrap().value;
    let good = listing.items.iter().filter(|item| item.is_ok()).count();
    assert_eq!((listing.items.len(), good), (9, 2));
    let listing = store.list_processes(&page).await.unwrap().value;
    let good = listing.items.iter().filter(|item| item.is_ok()).count();
    assert_eq!((listing.items.len(), good), (3, 2));
}

/// A database that is damaged as a whole says so, and says that nothing was done.
#[tokio::test]
async fn a_damaged_file_is_told() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    drop(store);
    place.closed().await;
    let mut bytes = std::fs::read(place.path()).unwrap();
    for byte in &mut bytes[4096..] {
        *byte = 0x5A;
    }
    std::fs::write(place.path(), bytes).unwrap();
    let error = match common::open(&place.path()).await {
        Err(error) => error,
        Ok(store) => store
            .try_create(&claim(&owner("k", &me, 1)))
            .await
            .unwrap_err(),
    };
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Corrupt, Effect::NotApplied)
    );
}

/// A full disk, as SQLite itself says it.
#[tokio::test]
async fn a_step_that_fails_half_way_is_rolled_back_whole() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut raw = place.raw().await;
    sql(
        &mut raw,
        "CREATE TRIGGER full BEFORE INSERT ON locks BEGIN SELECT RAISE(ABORT, 'no'); END;",
    )
    .await;
    let x = owner("k", &me, 1);
    let error = store.try_create(&claim(&x)).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect()),
        (ErrorKind::Rejected, Effect::NotApplied)
    );
    sql(&mut raw, "DROP TRIGGER full").await;
    granted(store.try_create(&claim(&x)).await.unwrap().value);
}

/// Of a COMMIT that fails nothing is assumed, and its transaction does not stay open: it would keep
/// everybody from writing.
#[tokio::test]
async fn a_failing_commit_is_unknown_and_lets_the_write_lock_go() {
    let place = Place::new();
    let (store, other) = (place.open().await, place.open().await);
    let me = born(&store, 1).await;
    let mut raw = place.raw().await;
    // A reference that leads nowhere is noticed by COMMIT, not by the statement.
    sql(
        &mut raw,
        "CREATE TABLE there (id INTEGER PRIMARY KEY);
         CREATE TABLE here (id REFERENCES there DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER bad AFTER INSERT ON locks BEGIN INSERT INTO here VALUES (7); END;",
    )
    .await;
    let x = owner("k", &me, 1);
    let error = store.try_create(&claim(&x)).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error:?}");
    let start = Instant::now();
    born(&other, 2).await;
    assert!(
        start.elapsed() < Duration::from_millis(900),
        "the write lock is free"
    );
    sql(&mut raw, "DROP TRIGGER bad").await;
    // The connection was opened anew, and the process still lives.
    assert_eq!(store.release(&x).await.unwrap().value, Released::Absent);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_race_for_one_key_and_one_wins() {
    let place = Place::new();
    let start = Arc::new(tokio::sync::Barrier::new(12));
    let mut racers = Vec::new();
    for nonce in 0..12 {
        let store = place.open().await;
        let start = Arc::clone(&start);
        racers.push(tokio::spawn(async move {
            let me = born(&store, nonce).await;
            start.wait().await;
            let x = owner("k", &me, 1);
            let claimed = store.try_create(&claim(&x)).await.unwrap().value;
            (matches!(claimed, Claimed::Granted(_)), store)
        }));
    }
    let mut won = 0;
    let mut stores: Vec<Arc<dyn Backend>> = Vec::new();
    for racer in racers {
        let (winner, store) = racer.await.unwrap();
        won += u32::from(winner);
        stores.push(store);
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn tokens_grow_over_a_clock_that_was_ahead() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&x).await.unwrap();
    let mut raw = place.raw().await;
    sql(&mut raw, "UPDATE locks SET token = token + 86400000000").await;
    let ahead = number(&mut raw, "SELECT token FROM locks").await;
    // The sweep does not forget what the clock has not passed.
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap().value, 0);
    let token = granted(
        store
            .try_create(&claim(&owner("k", &me, 2)))
            .await
            .unwrap()
            .value,
    );
    assert_eq!(token.get(), u64::try_from(ahead).unwrap() + 1);
    let seen = held(
        store
            .try_create(&claim(&owner("k", &me, 3)))
            .await
            .unwrap()
            .value,
    );
    assert_eq!(seen.data.token, token);
    let bounded = Claim {
        not_after: StoreTime::from_micros(1),
        ..claim(&x)
    };
    assert_eq!(
        store.try_create(&bounded).await.unwrap().value,
        Claimed::TooLate
    );
}
