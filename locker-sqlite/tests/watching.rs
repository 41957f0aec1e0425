//! Wake-ups: within milliseconds, in the order of enrolment, across processes, past the dead; and
//! waiters that hear nothing lose nothing but time (attacks 20 and 36).
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test, and its children speak.

mod common;

use common::{LONG, Place, Ready, born, claim, granted, key, owner, process, until};
use futures_util::{FutureExt, StreamExt};
use locker_core::Backend;
use locker_core::backend::{Force, Hint, HintStream, Watcher};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Children of this binary.
#[tokio::test]
async fn child() {
    let Some((role, path)) = common::role() else {
        return;
    };
    let store = common::open(&path).await.unwrap();
    match role.as_str() {
        // Waits for "k", says when it is woken, takes it, and lets it go.
        "waiter" => {
            let me = born(&store, std::process::id().into()).await;
            let mut hints = watch(&store, "k", &Watcher::Waiter(me.clone())).await;
            println!("\nready");
            let hint = hints.next().await;
            println!("\nwoken {hint:?}");
            std::future::pending::<()>().await;
        }
        // Adds one to a number in a file, again and again, under the lock.
        "counter" => count(&store, &path).await,
        other => panic!("no such role: {other}"),
    }
}

async fn watch(store: &Arc<dyn Backend>, name: &str, watcher: &Watcher) -> HintStream {
    store.watch(&key(name), watcher).await.unwrap()
}

async fn soon(hints: &mut HintStream) -> Option<Hint> {
    tokio::time::timeout(Duration::from_secs(5), hints.next())
        .await
        .expect("a hint")
}

async fn rows(place: &Place) -> i64 {
    let mut raw = place.raw().await;
    common::number(&mut raw, "SELECT count(*) FROM waiters").await
}

#[tokio::test]
async fn a_release_wakes_the_living_in_order_and_observers_first() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let (a, b, c) = (place.open().await, place.open().await, place.open().await);
    let (pa, pb, pc) = (born(&a, 2).await, born(&b, 3).await, born(&c, 4).await);
    let mut first = watch(&a, "k", &Watcher::Waiter(pa.clone())).await;
    let mut observer = watch(&store, "k", &Watcher::Observer).await;
    let mut second = watch(&b, "k", &Watcher::Waiter(pb.clone())).await;
    let mut third = watch(&c, "k", &Watcher::Waiter(pc.clone())).await;
    let mut other = watch(&c, "another key", &Watcher::Waiter(pc.clone())).await;

    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&x).await.unwrap();
    assert_eq!(soon(&mut first).await, Some(Hint::Free { place: 0 }));
    assert_eq!(soon(&mut second).await, Some(Hint::Free { place: 1 }));
    assert_eq!(soon(&mut third).await, Some(Hint::Free { place: 2 }));
    assert_eq!(soon(&mut observer).await, Some(Hint::Free { place: 0 }));
    assert_eq!(other.next().now_or_never(), None);

    // The dead have no place, their streams end, and their enrolments go.
    a.retire_process(&pa).await.unwrap();
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.force_release(&x, Force::Now).await.unwrap();
    assert_eq!(soon(&mut first).await, None);
    assert_eq!(soon(&mut second).await, Some(Hint::Free { place: 0 }));
    assert_eq!(soon(&mut third).await, Some(Hint::Free { place: 1 }));
    until(async || rows(&place).await == 4).await;

    // A release that changes nothing, and a mark, wake nobody.
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&owner("k", &me, 9)).await.unwrap();
    store.force_release(&x, Force::Mark).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(second.next().now_or_never(), None);
}

#[tokio::test]
async fn a_release_in_another_namespace_wakes_nobody() {
    use locker_core::Connect;
    use locker_core::backend::Side;
    let place = Place::new();
    let store = place.open().await;
    let other = locker_sqlite::Sqlite::new(place.path()).namespace("other");
    let other = other.connect(Side::Caller).await.unwrap();
    let mut here = watch(&store, "k", &Watcher::Observer).await;
    let mut there = watch(&other, "k", &Watcher::Observer).await;
    let me = born(&store, 1).await;
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&x).await.unwrap();
    assert_eq!(soon(&mut here).await, Some(Hint::Free { place: 0 }));
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(there.next().now_or_never(), None);
}

#[tokio::test]
async fn a_retirement_wakes_the_waiters_of_all_its_locks() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let waiters = place.open().await;
    let you = born(&waiters, 2).await;
    let mut streams = Vec::new();
    for n in 0..300 {
        let name = format!("k{n}");
        let x = owner(&name, &me, n);
        granted(store.try_create(&claim(&x)).await.unwrap().value);
        streams.push(watch(&waiters, &name, &Watcher::Waiter(you.clone())).await);
    }
    let mut free = watch(&waiters, "never held", &Watcher::Waiter(you.clone())).await;
    store.retire_process(&me).await.unwrap();
    for stream in &mut streams {
        assert_eq!(soon(stream).await, Some(Hint::Free { place: 0 }));
    }
    assert_eq!(free.next().now_or_never(), None);
}

#[tokio::test]
async fn a_waiter_in_another_process_is_woken_within_milliseconds() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut took = Vec::new();
    for seq in 0..5 {
        let x = owner("k", &me, seq);
        granted(store.try_create(&claim(&x)).await.unwrap().value);
        let mut waiter = Ready::spawn("waiter", &place.path());
        let start = Instant::now();
        store.release(&x).await.unwrap();
        let line = waiter.wait_for("woken");
        took.push(start.elapsed());
        assert!(line.contains("Free { place: 0 }"), "{line}");
        drop(waiter);
    }
    took.sort();
    println!("release to wake-up in another process: {took:?}");
    assert!(took[2] < Duration::from_millis(50), "L1: {took:?}");
}

/// A killed waiter is skipped, its socket and its enrolment are removed by whoever wakes.
#[tokio::test]
async fn a_dead_waiter_delays_nobody_and_leaves_nothing_behind() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let dead = Ready::spawn("waiter", &place.path());
    let mut observer = watch(&store, "k", &Watcher::Observer).await;
    let mut living = watch(&store, "k", &Watcher::Waiter(me.clone())).await;
    drop(dead);
    assert_eq!(rows(&place).await, 3);
    let sockets = || {
        std::fs::read_dir(place.folder().join("locks.db.wake"))
            .unwrap()
            .count()
    };
    assert_eq!(sockets(), 2);
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&x).await.unwrap();
    assert_eq!(soon(&mut living).await, Some(Hint::Free { place: 0 }));
    assert_eq!(soon(&mut observer).await, Some(Hint::Free { place: 0 }));
    until(async || rows(&place).await == 2 && sockets() == 1).await;
}

#[tokio::test]
async fn a_dropped_stream_and_a_dropped_connection_withdraw() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut streams = Vec::new();
    for n in 0..20 {
        streams.push(watch(&store, &format!("k{n}"), &Watcher::Waiter(me.clone())).await);
    }
    assert_eq!(rows(&place).await, 20);
    streams.truncate(5);
    until(async || rows(&place).await == 5).await;
    drop(store);
    until(async || rows(&place).await == 0).await;
    for stream in &mut streams {
        assert_eq!(soon(stream).await, None);
    }
    let sockets = std::fs::read_dir(place.folder().join("locks.db.wake")).unwrap();
    assert_eq!(sockets.count(), 0);
}

/// Cleaning up after the dead is not at the expense of who releases.
#[tokio::test]
async fn a_release_does_not_wait_for_the_removal_of_dead_waiters() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let gone = born(&store, 2).await;
    let _stream = watch(&store, "k", &Watcher::Waiter(gone.clone())).await;
    store.retire_process(&gone).await.unwrap();
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    let mut raw = place.raw().await;
    // Whoever deletes from now on waits, and fails.
    let trigger = "CREATE TRIGGER t BEFORE DELETE ON waiters BEGIN SELECT RAISE(ABORT, 'no'); END;";
    common::sql(&mut raw, trigger).await;
    store.release(&x).await.unwrap();
    common::sql(&mut raw, "DROP TRIGGER t").await;
    store.read_lock(&key("k")).await.unwrap();
    until(async || rows(&place).await == 0).await;
}

/// A withdrawal that meets a writer is written later, not lost.
#[tokio::test]
async fn a_withdrawal_waits_for_a_busy_database() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let stream = watch(&store, "k", &Watcher::Waiter(me.clone())).await;
    let mut raw = place.raw().await;
    common::sql(&mut raw, "BEGIN IMMEDIATE").await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    common::sql(&mut raw, "ROLLBACK").await;
    // With the next thing that the connection does.
    store.read_lock(&key("k")).await.unwrap();
    until(async || rows(&place).await == 0).await;
}

#[tokio::test]
async fn sockets_of_the_dead_are_removed_when_they_are_old_and_young_ones_are_left() {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let place = Place::new();
    let folder = place.folder().join("locks.db.wake");
    std::fs::create_dir(&folder).unwrap();
    let bind = |name: &str| std::os::unix::net::UnixDatagram::bind(folder.join(name)).unwrap();
    drop(bind("old"));
    drop(bind("young"));
    let living = bind("living");
    let long_ago = TimeSpec::new(1_000_000_000, 0);
    for name in ["old", "living"] {
        let path = folder.join(name);
        let flags = UtimensatFlags::NoFollowSymlink;
        utimensat(nix::fcntl::AT_FDCWD, &path, &long_ago, &long_ago, flags).unwrap();
    }
    drop(place.open().await);
    let left = |name: &str| folder.join(name).exists();
    assert!(!left("old") && left("young") && left("living"));
    drop(living);
}

/// Without sockets, hints do not come; everything else does.
#[tokio::test]
async fn waiters_without_a_socket_are_enrolled_and_poll() {
    let place = Place::new();
    std::fs::write(place.folder().join("locks.db.wake"), "not a folder").unwrap();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut stream = watch(&store, "k", &Watcher::Waiter(me.clone())).await;
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&x).await.unwrap();
    assert_eq!(stream.next().now_or_never(), None);
    assert_eq!(rows(&place).await, 1);
}

/// S11: a damaged enrolment harms nobody who stands behind it.
#[tokio::test]
async fn a_damaged_enrolment_hides_nobody() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut raw = place.raw().await;
    common::sql(
        &mut raw,
        "INSERT INTO waiters (namespace, key, process, socket) VALUES
             ('locker', 'k', NULL, CAST(x'FF' AS TEXT)),
             ('locker', 'k', 'nonsense', CAST(x'FF' AS TEXT)),
             ('locker', 'k', NULL, '../../locks.db'),
             ('locker', 'k', NULL, '');",
    )
    .await;
    let mut stream = watch(&store, "k", &Watcher::Waiter(me.clone())).await;
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&x).await.unwrap();
    assert_eq!(soon(&mut stream).await, Some(Hint::Free { place: 0 }));
    assert_eq!(store.sweep(LONG).await.unwrap().value, 0);
    // What names no socket at all is forgotten; nothing outside the folder was touched.
    until(async || rows(&place).await == 3).await;
    assert!(place.path().exists());
}

/// S10: nobody needs to be trusted with a socket.
#[tokio::test]
async fn forged_datagrams_change_nothing() {
    let place = Place::new();
    let store = place.open().await;
    let me = born(&store, 1).await;
    let mut stream = watch(&store, "k", &Watcher::Waiter(me.clone())).await;
    let folder = place.folder().join("locks.db.wake");
    let socket = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
    let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
    for forged in [&b""[..], b"x", &[0xFF; 12], &[0x55; 4000], &[0; 11]] {
        sender.send_to(forged, socket.path()).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(stream.next().now_or_never(), None);
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&x).await.unwrap();
    assert_eq!(soon(&mut stream).await, Some(Hint::Free { place: 0 }));
}

/// Long paths do not fit into the address of a socket; ours do.
#[tokio::test]
async fn a_long_path_has_wake_ups_too() {
    let place = Place::new();
    let deep = place.folder().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let store = common::open(&deep.join("locks.db")).await.unwrap();
    let me = born(&store, 1).await;
    let mut stream = watch(&store, "k", &Watcher::Observer).await;
    let x = owner("k", &me, 1);
    granted(store.try_create(&claim(&x)).await.unwrap().value);
    store.release(&x).await.unwrap();
    assert_eq!(soon(&mut stream).await, Some(Hint::Free { place: 0 }));
}

const ROUNDS: u64 = 40;

async fn count(store: &Arc<dyn Backend>, path: &Path) {
    let me = process(std::process::id().into());
    store.create_process(&me, LONG).await.unwrap();
    let number = path.with_extension("number");
    let mut hints = watch(store, "n", &Watcher::Waiter(me.clone())).await;
    for seq in 0..ROUNDS {
        let x = owner("n", &me, seq);
        loop {
            let claimed = store.try_create(&claim(&x)).await.unwrap().value;
            if matches!(claimed, locker_core::backend::Claimed::Granted(_)) {
                break;
            }
            tokio::time::timeout(Duration::from_millis(50), hints.next())
                .await
                .ok();
        }
        let read: u64 = std::fs::read_to_string(&number).unwrap().parse().unwrap();
        tokio::task::yield_now().await;
        std::fs::write(&number, (read + 1).to_string()).unwrap();
        store.release(&x).await.unwrap();
    }
    println!("\nended");
}

/// S1 across processes: no increment is lost.
#[test]
fn counters_under_the_lock_lose_no_increment() {
    let place = Place::new();
    let number = place.path().with_extension("number");
    std::fs::write(&number, "0").unwrap();
    let mut children: Vec<_> = (0..4)
        .map(|_| Ready::from(common::command("counter", &place.path()).spawn().unwrap()))
        .collect();
    for child in &mut children {
        child.wait_for("ended");
    }
    let total: u64 = std::fs::read_to_string(&number).unwrap().parse().unwrap();
    assert_eq!(total, 4 * ROUNDS);
}
