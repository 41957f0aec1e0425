//! Waiting: one stream for all, the order of those who wait, and what ends a wait.
// Tests may unwrap, also in what they share.
#![allow(clippy::unwrap_used)]

mod common;

use common::{
    BRIEF, acquire, born, born_for, connect, key, open, owner, raw, server, store, until,
};
use etcd_client::GetOptions;
use futures_util::StreamExt;
use locker_core::backend::{Hint, HintStream, Released, Watcher};
use locker_core::{Backend, ProcessHash};
use locker_testkit::servers::etcd::Server;
use std::sync::Arc;
use std::time::Duration;

async fn wait_for(store: &Arc<dyn Backend>, name: &str, process: &ProcessHash) -> HintStream {
    let watcher = Watcher::Waiter(process.clone());
    store.watch(&key(name), &watcher).await.unwrap()
}

async fn next(hints: &mut HintStream) -> Option<Hint> {
    let next = tokio::time::timeout(Duration::from_secs(15), hints.next());
    next.await.expect("a hint, or the end of the stream")
}

async fn enrolments(server: &Server) -> i64 {
    let all = GetOptions::new().with_prefix().with_count_only();
    let found = raw(server).await.get("locker/wait/", Some(all)).await;
    found.unwrap().count()
}

fn metric(server: &Server, name: &str) -> u64 {
    server.member().metric(name).unwrap().parse().unwrap()
}

/// L8, attack 37a: one stream; and for each wait one watch of the lock, and one of its line.
#[tokio::test]
async fn a_process_has_one_stream_and_two_watches_for_each_wait() {
    let server = server();
    let b = open(&server).await;
    let process = born(&b, 1).await;
    let mut waits = Vec::new();
    for n in 0..20 {
        waits.push(wait_for(&b, &format!("k{n}"), &process).await);
    }
    let streams = || metric(&server, "etcd_debugging_mvcc_watch_stream_total");
    let watches = || metric(&server, "etcd_debugging_mvcc_watcher_total");
    assert_eq!((streams(), watches()), (1, 40));
    assert_eq!(enrolments(&server).await, 20);
    waits.truncate(5);
    until(async || watches() == 10 && enrolments(&server).await == 5).await;
    drop(waits);
    until(async || watches() == 0 && enrolments(&server).await == 0).await;
    drop(b);
    until(async || streams() == 0).await;
}

/// L2: who waits is told of a death as of a release.
#[tokio::test]
async fn the_end_of_a_lease_wakes_the_waiter() {
    let server = server();
    let (a, b) = (open(&server).await, open(&server).await);
    // Twice the least, so that it lives until somebody waits, also on a slow disk.
    let (dying, waiter) = (born_for(&a, 1, BRIEF * 2).await, born(&b, 2).await);
    acquire(&a, &owner("k", &dying, 1)).await;
    let mut hints = wait_for(&b, "k", &waiter).await;
    assert_eq!(next(&mut hints).await, Some(Hint::Free { place: 0 }));
    acquire(&b, &owner("k", &waiter, 1)).await;
}

/// F31: whoever leaves the line while the lock is free makes place for the next one, at once, and not
/// only when the next one's turn has come.
#[tokio::test]
async fn the_next_is_told_when_the_first_leaves_a_free_lock() {
    let server = server();
    let (a, b, c) = (
        open(&server).await,
        open(&server).await,
        open(&server).await,
    );
    let (holder, first, second) = (born(&a, 1).await, born(&b, 2).await, born(&c, 3).await);
    let mine = owner("k", &holder, 1);
    acquire(&a, &mine).await;
    let mut before = wait_for(&b, "k", &first).await;
    let mut behind = wait_for(&c, "k", &second).await;
    a.release(&mine).await.unwrap();
    assert_eq!(next(&mut before).await, Some(Hint::Free { place: 0 }));
    assert_eq!(next(&mut behind).await, Some(Hint::Free { place: 1 }));
    drop(before);
    assert_eq!(next(&mut behind).await, Some(Hint::Free { place: 0 }));
}

/// The place in the line is known when the lock goes: nothing is asked between its release and the
/// hint.
#[tokio::test]
async fn a_waiter_knows_its_place_without_asking() {
    let server = server();
    let stores = [open(&server).await, open(&server).await];
    let (holder, mine) = (born(&stores[0], 1).await, born(&stores[0], 2).await);
    let mut before = Vec::new();
    for n in 3..8 {
        let other = born(&stores[1], n).await;
        before.push(wait_for(&stores[1], "k", &other).await);
    }
    let mut hints = wait_for(&stores[0], "k", &mine).await;
    let reads = || metric(&server, "etcd_debugging_mvcc_range_total");
    for place in (0..=5).rev() {
        let held = owner("k", &holder, u64::from(place));
        acquire(&stores[0], &held).await;
        until(async || enrolments(&server).await == i64::from(place) + 1).await;
        // The server itself reads what a seat was that has gone, for each who is told so. One that was not
        // let run is quiet as well, but it does not answer.
        let quiet = async || {
            let before = reads();
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if before != reads() {
                    return false;
                }
            }
            true
        };
        until(quiet).await;
        let seen = reads();
        stores[0].release(&held).await.unwrap();
        assert_eq!(next(&mut hints).await, Some(Hint::Free { place }));
        // Those of the release: whose the lock is.
        assert!(reads() <= seen + 2, "{} reads", reads() - seen);
        before.pop();
    }
}

/// A waiter whose own process has lapsed is told so, before it waits and while it does.
#[tokio::test]
async fn the_stream_of_a_dead_waiter_ends() {
    let server = server();
    let (a, b) = (open(&server).await, open(&server).await);
    let (holder, first, lapsing) = (born(&a, 1).await, born(&b, 2).await, born(&b, 3).await);
    let dead = common::process(9);
    assert_eq!(next(&mut wait_for(&b, "k", &dead).await).await, None);

    acquire(&a, &owner("k", &holder, 1)).await;
    let _before = wait_for(&b, "k", &first).await;
    let mut hints = wait_for(&b, "k", &lapsing).await;
    a.retire_process(&lapsing).await.unwrap();
    a.release(&owner("k", &holder, 1)).await.unwrap();
    assert_eq!(next(&mut hints).await, None);
}

/// Whoever enrols again keeps its place, and the end of its former wait does not withdraw it.
#[tokio::test]
async fn a_process_that_enrols_again_keeps_its_place() {
    let server = server();
    let (a, b, c) = (
        open(&server).await,
        open(&server).await,
        open(&server).await,
    );
    let (holder, first, second) = (born(&a, 1).await, born(&b, 2).await, born(&c, 3).await);
    let mut lasts = Vec::new();
    let former = wait_for(&b, "k", &first).await;
    let mut behind = wait_for(&c, "k", &second).await;
    let mut again = wait_for(&b, "k", &first).await;
    drop(former);
    for seq in 0..3 {
        let mine = owner("k", &holder, seq);
        acquire(&a, &mine).await;
        assert_eq!(a.release(&mine).await.unwrap().value, Released::Done);
        lasts.push(next(&mut again).await);
        assert_eq!(next(&mut behind).await, Some(Hint::Free { place: 1 }));
    }
    assert_eq!(lasts.pop(), Some(Some(Hint::Free { place: 0 })));
    assert_eq!(enrolments(&server).await, 2);
}

/// F21: a compaction under a watch takes nothing from it.
#[tokio::test]
async fn a_compaction_loses_no_hand_off() {
    let server = server();
    let (a, b) = (open(&server).await, open(&server).await);
    let mut raw = raw(&server).await;
    let (holder, waiter) = (born(&a, 1).await, born(&b, 2).await);
    let mut hints = wait_for(&b, "k", &waiter).await;
    for seq in 0..5 {
        let mine = owner("k", &holder, seq);
        acquire(&a, &mine).await;
        let put = raw.put("elsewhere", "x", None).await.unwrap();
        let revision = put.header().unwrap().revision();
        raw.compact(revision, None).await.unwrap();
        a.release(&mine).await.unwrap();
        assert_eq!(next(&mut hints).await, Some(Hint::Free { place: 0 }));
    }
}

/// What happened while a connection was lost is unknown: its streams end, and the driver tries once
/// more after it has subscribed again.
#[tokio::test]
async fn a_lost_connection_ends_its_streams() {
    let mut server = server();
    let store = store(&server);
    let b = connect(&store).await;
    let waiter = born(&b, 1).await;
    let mut hints = wait_for(&b, "k", &waiter).await;
    server.member_mut().kill().unwrap();
    assert_eq!(next(&mut hints).await, None);
    server.member_mut().start_again().unwrap();
    let again = connect(&store).await;
    let mut hints = wait_for(&again, "k", &waiter).await;
    let mine = owner("k", &waiter, 1);
    acquire(&again, &mine).await;
    again.release(&mine).await.unwrap();
    assert_eq!(next(&mut hints).await, Some(Hint::Free { place: 0 }));
}

/// L8: an enrolment is withdrawn also when who asked for it went away before the answer came. A place
/// that nobody takes would hold up everybody behind it.
#[tokio::test]
async fn an_enrolment_whose_caller_has_gone_is_withdrawn() {
    let server = server();
    let b = open(&server).await;
    let waiter = born(&b, 1).await;
    let written = || metric(&server, "etcd_debugging_mvcc_put_total");
    let before = written();
    server.member().pause().unwrap();
    let asking = {
        let (b, waiter) = (Arc::clone(&b), waiter.clone());
        tokio::spawn(async move { drop(wait_for(&b, "k", &waiter).await) })
    };
    // It is in the kernel's hands.
    tokio::time::sleep(Duration::from_millis(200)).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    server.member().resume().unwrap();
    until(async || written() > before).await;
    until(async || enrolments(&server).await == 0).await;
}

/// Dropping the connection ends the streams, and what could not be withdrawn on it is withdrawn on
/// the next one: a living process must not stand in a line that it has left.
#[tokio::test]
async fn an_enrolment_outlives_its_connection_by_no_more_than_the_next_one() {
    let server = server();
    let store = store(&server);
    let b = connect(&store).await;
    let waiter = born(&b, 1).await;
    let mut hints = wait_for(&b, "k", &waiter).await;
    drop(b);
    assert_eq!(next(&mut hints).await, None);
    drop(hints);
    let _next = connect(&store).await;
    until(async || enrolments(&server).await == 0).await;
}

/// So it is if the next one is there already, as it is where a connection is doubted.
#[tokio::test]
async fn an_enrolment_is_withdrawn_on_the_connection_that_is_there() {
    let server = server();
    let store = store(&server);
    let b = connect(&store).await;
    let waiter = born(&b, 1).await;
    let mut hints = wait_for(&b, "k", &waiter).await;
    let _next = connect(&store).await;
    drop(b);
    assert_eq!(next(&mut hints).await, None);
    drop(hints);
    until(async || enrolments(&server).await == 0).await;
}
