//! The subscription, and what becomes of enrolments.

use super::*;
use futures_util::StreamExt;
use locker_core::backend::{Hint, HintStream, Released};
use std::task::Poll;

async fn next(hints: &mut HintStream) -> Option<Hint> {
    tokio::time::timeout(PATIENCE, hints.next())
        .await
        .expect("a hint should have come")
}

/// The enrolments that lie under a lock.
fn enrolments(server: &Server, lock: &str) -> usize {
    let fields: Vec<String> = server.node().query(&["HKEYS", lock]).unwrap();
    fields
        .iter()
        .filter(|field| field.starts_with("w:"))
        .count()
}

async fn released(process: &Process, owner: &OwnerHash) {
    let released = process.backend.release(owner).await.unwrap().value;
    assert_eq!(released, Released::Done);
}

/// A lost subscription costs latency: it is opened again, every stream is enrolled again in its
/// place, and told that something may have been missed.
#[tokio::test]
async fn a_lost_subscription_is_rebuilt() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let [b, c] = [
        Process::born(server.url(), "ns").await,
        Process::born(server.url(), "ns").await,
    ];
    let owner = a.acquire("k").await;
    let mut first = b.watch("k").await.unwrap();
    let mut second = c.watch("k").await.unwrap();
    for _ in 0..2 {
        server
            .node()
            .command(&["CLIENT", "KILL", "TYPE", "pubsub"])
            .unwrap();
        assert_eq!(next(&mut first).await, Some(Hint::Rebuilt));
        assert_eq!(next(&mut second).await, Some(Hint::Rebuilt));
    }
    assert_eq!(enrolments(&server, "ns:{k}"), 2, "nobody is enrolled twice");
    released(&a, &owner).await;
    assert_eq!(next(&mut first).await, Some(Hint::Free { place: 0 }));
    assert_eq!(next(&mut second).await, Some(Hint::Free { place: 1 }));
}

/// S11: a lock that cannot be read any more does not keep the subscription of the others from being
/// rebuilt, once.
#[tokio::test]
async fn a_damaged_lock_silences_nobody_elses() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    let damaged = b.watch("j").await.unwrap();
    let mut waiting = b.watch("k").await.unwrap();
    server.node().command(&["SET", "ns:{j}", "x"]).unwrap();
    server
        .node()
        .command(&["CLIENT", "KILL", "TYPE", "pubsub"])
        .unwrap();
    assert_eq!(next(&mut waiting).await, Some(Hint::Rebuilt));
    for _ in 0..100 {
        let owner = a.acquire("k").await;
        released(&a, &owner).await;
        assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 0 }));
    }
    drop(damaged);
}

/// A server that was restarted without its data has lost the enrolments, too.
#[tokio::test]
async fn a_restarted_server_is_subscribed_to_again() {
    let mut server = Server::start(&Setup::new()).unwrap();
    let url = server.url().to_owned();
    let b = Process::born(&url, "ns").await;
    let mut waiting = b.watch("k").await.unwrap();
    server.node_mut().kill().unwrap();
    server.node_mut().start_empty().unwrap();
    assert_eq!(next(&mut waiting).await, Some(Hint::Rebuilt));
    b.backend.create_process(&b.hash, LONG).await.ok();
    let a = Process::born(&url, "ns").await;
    let reborn = Process::born(&url, "ns").await;
    drop(reborn);
    let observer = a
        .backend
        .watch(&key("k"), &Watcher::Observer)
        .await
        .unwrap();
    assert_eq!(enrolments(&server, "ns:{k}"), 2);
    drop(observer);
}

/// F31, L8: who leaves leaves nothing behind.
#[tokio::test]
async fn streams_that_are_dropped_leave_no_enrolment() {
    let server = Server::start(&Setup::new()).unwrap();
    let b = Process::born(server.url(), "ns").await;
    for _ in 0..20 {
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(b.watch("k").await.unwrap());
            streams.push(
                b.backend
                    .watch(&key("k"), &Watcher::Observer)
                    .await
                    .unwrap(),
            );
        }
        assert!(enrolments(&server, "ns:{k}") >= 10);
        drop(streams);
    }
    until("the last enrolment goes, and the key with it", async || {
        server.node().command(&["EXISTS", "ns:{k}"]).unwrap() == "0"
    })
    .await;
    // A watch whose caller goes away before it is confirmed.
    let watched = key("k");
    for polls in 0..20 {
        let mut watch = Box::pin(b.backend.watch(&watched, &Watcher::Observer));
        for _ in 0..polls {
            let polled = std::future::poll_fn(|context| Poll::Ready(watch.as_mut().poll(context)));
            if polled.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    until("the last enrolment goes, and the key with it", async || {
        server.node().command(&["EXISTS", "ns:{k}"]).unwrap() == "0"
    })
    .await;
}

/// F27, attack 36b: a process that was killed says nothing to the server. Its subscription is gone,
/// so its enrolment takes no place, and is forgotten at the first release.
#[tokio::test]
async fn a_killed_waiter_takes_no_place() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let owner = a.acquire("k").await;
    // Its process record lives on for a while; its mailbox is read by nobody.
    let killed = Process::born(server.url(), "ns").await;
    let enrolment = format!("{} 0 {}", fresh("m"), killed.hash);
    let words = [
        "HSET", "ns:{k}", "w:1", &enrolment, "waiters", "1", "enrolled", "1",
    ];
    server.node().command(&words).unwrap();
    let b = Process::born(server.url(), "ns").await;
    let mut waiting = b.watch("k").await.unwrap();
    assert_eq!(enrolments(&server, "ns:{k}"), 2);
    released(&a, &owner).await;
    assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 0 }));
    assert_eq!(enrolments(&server, "ns:{k}"), 1);
}

/// F27: a whole fleet was killed while it waited, behind as many waiters as are told at once but one. A
/// release looks at the lock once, and those who live are told no more than twice.
#[tokio::test]
async fn a_killed_fleet_holds_the_server_no_longer_than_once() {
    const LIVING: usize = 63;
    const KILLED: usize = 500;
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    let owner = a.acquire("k").await;
    let mut living = Vec::new();
    for _ in 0..LIVING {
        living.push(b.watch("k").await.unwrap());
    }
    let killed = Process::born(server.url(), "ns").await;
    let all = (LIVING + KILLED).to_string();
    let mut words: Vec<String> = ["HSET", "ns:{k}", "waiters", &all, "enrolled", &all]
        .map(str::to_owned)
        .into();
    for n in LIVING + 1..=LIVING + KILLED {
        words.push(format!("w:{n}"));
        words.push(format!("{} {n} {}", fresh("m"), killed.hash));
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    server.node().command(&words).unwrap();
    server.node().command(&["CONFIG", "RESETSTAT"]).unwrap();
    released(&a, &owner).await;
    let stats: String = server.node().query(&["INFO", "commandstats"]).unwrap();
    let calls = |command: &str| -> usize {
        let line = format!("cmdstat_{command}:calls=");
        let found = stats.lines().find_map(|stat| stat.strip_prefix(&line));
        let number = found.and_then(|stat| stat.split(',').next());
        number.map_or(0, |number| number.parse().unwrap())
    };
    assert_eq!(calls("hgetall"), 1);
    assert!(calls("publish") <= 2 * LIVING + KILLED, "{stats}");
    assert_eq!(enrolments(&server, "ns:{k}"), LIVING);
    for (place, hints) in (0..).zip(&mut living) {
        assert_eq!(next(hints).await, Some(Hint::Free { place }));
    }
}

/// S11: an enrolment that no release of the locker has written puts nobody out of the line.
#[tokio::test]
async fn a_damaged_enrolment_harms_nobody_elses() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    for damaged in ["w:01000", "w:100000000000000000000"] {
        let owner = a.acquire("k").await;
        let mut waiting = b.watch("k").await.unwrap();
        let enrolment = format!("{} 9 {}", fresh("m"), a.hash);
        let words = ["HSET", "ns:{k}", damaged, &enrolment];
        server.node().command(&words).unwrap();
        server
            .node()
            .command(&["HINCRBY", "ns:{k}", "waiters", "1"])
            .unwrap();
        released(&a, &owner).await;
        assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 0 }));
        assert_eq!(enrolments(&server, "ns:{k}"), 1, "{damaged}");
        let waiters: usize = server.node().query(&["HGET", "ns:{k}", "waiters"]).unwrap();
        assert_eq!(waiters, 1);
    }
}

/// Attack 36a: an enrolment that nobody waits for any more, in a mailbox that is read, is withdrawn
/// at its first hint.
#[tokio::test]
async fn a_ghost_is_laid_at_its_first_hint() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    let mut waiting = b.watch("k").await.unwrap();
    let real: String = server.node().command(&["HGET", "ns:{k}", "w:1"]).unwrap();
    let (mailbox, _) = real.split_once(' ').unwrap();
    let ghost = format!("{mailbox} 77 {}", b.hash);
    server
        .node()
        .command(&["HSET", "ns:{k}", "w:0", &ghost, "waiters", "2"])
        .unwrap();
    let owner = a.acquire("k").await;
    released(&a, &owner).await;
    assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 1 }));
    until("the ghost is withdrawn", async || {
        enrolments(&server, "ns:{k}") == 1
    })
    .await;
    let owner = a.acquire("k").await;
    released(&a, &owner).await;
    assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 0 }));
}

/// S10: a forged message is a hint at most.
#[tokio::test]
async fn forged_messages_change_nothing() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    let owner = a.acquire("k").await;
    let mut waiting = b.watch("k").await.unwrap();
    let real = server.node().command(&["HGET", "ns:{k}", "w:1"]).unwrap();
    let channel = format!("ns:mail:{}", real.split(' ').next().unwrap());
    for message in [
        "",
        "x",
        "0",
        "0 1",
        "0 1 2",
        "0 1 -5 ns:{k}",
        "99 1 0 ns:{k}",
        "0 1 0 ns:{other}",
        "\u{1}",
    ] {
        server
            .node()
            .command(&["PUBLISH", &channel, message])
            .unwrap();
    }
    server
        .node()
        .command(&["PUBLISH", &channel, "0 1 7 ns:{k}"])
        .unwrap();
    assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 7 }));
    released(&a, &owner).await;
    assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 0 }));
}

/// S10, L8: a forged message that names a key which is not ours keeps no withdrawal from its way.
#[tokio::test]
async fn a_forged_message_about_a_foreign_key_spoils_no_withdrawal() {
    let user = "locker on >hunter2 ~ns:* &ns:* +@all";
    let server = Server::start(&Setup::new().user(user)).unwrap();
    let at = format!("redis://locker:hunter2@127.0.0.1:{}", server.node().port());
    let b = Process::born(&at, "ns").await;
    let mut staying = b.watch("k").await.unwrap();
    let leaving = b.watch("k").await.unwrap();
    let real = server.node().command(&["HGET", "ns:{k}", "w:1"]).unwrap();
    let channel = format!("ns:mail:{}", real.split(' ').next().unwrap());
    for message in ["99 1 0 other:{k}", "98 1 0 ns:k", "0 1 7 ns:{k}"] {
        server
            .node()
            .command(&["PUBLISH", &channel, message])
            .unwrap();
    }
    // They were read in their order.
    assert_eq!(next(&mut staying).await, Some(Hint::Free { place: 7 }));
    drop(leaving);
    until("the one that left is withdrawn", async || {
        enrolments(&server, "ns:{k}") == 1
    })
    .await;
    let owner = b.acquire("k").await;
    released(&b, &owner).await;
    assert_eq!(next(&mut staying).await, Some(Hint::Free { place: 0 }));
}

/// A lock is free when its record is gone, whether or not its owner may tell those who wait.
#[tokio::test]
async fn a_user_who_may_not_publish_gives_back_its_lock() {
    let user = "mute on >hunter2 ~ns:* &ns:* +@all -publish";
    let server = Server::start(&Setup::new().user(user)).unwrap();
    let at = format!("redis://mute:hunter2@127.0.0.1:{}", server.node().port());
    let a = Process::born(&at, "ns").await;
    let b = Process::born(server.url(), "ns").await;
    let owner = a.acquire("k").await;
    let waiting = b.watch("k").await.unwrap();
    released(&a, &owner).await;
    assert_eq!(enrolments(&server, "ns:{k}"), 1, "who was not told stays");
    let owner = b.acquire("k").await;
    released(&b, &owner).await;
    drop(waiting);
}

/// A connection is given up after a time-out; whoever watches goes on watching.
#[tokio::test]
async fn a_stream_outlives_its_connection() {
    for url in urls() {
        let namespace = fresh("outlives");
        let a = Process::born(&url, &namespace).await;
        let Process {
            store,
            backend,
            hash,
            ..
        } = Process::born(&url, &namespace).await;
        let owner = a.acquire("k").await;
        let mut waiting = backend
            .watch(&key("k"), &Watcher::Waiter(hash))
            .await
            .unwrap();
        drop(backend);
        let second = store.connect(Side::Caller).await.unwrap();
        released(&a, &owner).await;
        assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 0 }));
        drop(second);
    }
}

/// L7: one subscription for a process, however many keys and tasks.
#[tokio::test]
async fn a_process_has_one_subscription() {
    let server = Server::start(&Setup::new()).unwrap();
    let b = Process::born(server.url(), "ns").await;
    let other = b.store.connect(Side::Caller).await.unwrap();
    let mut streams = Vec::new();
    for number in 0..10 {
        let text = format!("k{number}");
        streams.push(b.watch(&text).await.unwrap());
        streams.push(other.watch(&key(&text), &Watcher::Observer).await.unwrap());
    }
    let clients = server
        .node()
        .command(&["CLIENT", "LIST", "TYPE", "pubsub"])
        .unwrap();
    assert_eq!(clients.lines().count(), 1, "{clients}");
    drop(streams);
}

/// On a cluster a slot may move to another node while somebody waits: its channel goes with it.
#[tokio::test]
async fn a_waiter_is_woken_after_its_slot_has_moved() {
    let cluster = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let a = Process::born(cluster.url(), "ns").await;
    let b = Process::born(cluster.url(), "ns").await;
    let owner = a.acquire("k").await;
    let mut waiting = b.watch("k").await.unwrap();
    let slot = cluster.slot_of("ns:{k}").unwrap();
    let to = (cluster.node_of(slot).unwrap() + 1) % 3;
    cluster.move_slot(slot, to).unwrap();
    assert_eq!(next(&mut waiting).await, Some(Hint::Rebuilt));
    released(&a, &owner).await;
    assert_eq!(next(&mut waiting).await, Some(Hint::Free { place: 0 }));
}

/// CU-5, L1: a node of a cluster that is gone silences its own locks and no others.
#[tokio::test]
async fn a_lost_node_silences_nobody_elses_locks() {
    let mut cluster = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let a = Process::born(cluster.url(), "ns").await;
    let b = Process::born(cluster.url(), "ns").await;
    let homes = [&a, &b].map(|process| place_of(&cluster, &format!("ns:process:{}", process.hash)));
    let lost = (0..3).find(|place| !homes.contains(place)).unwrap();
    let lock_at = |place: usize| {
        let mut names = (0..).map(|number| format!("k{number}"));
        names
            .find(|name| place_of(&cluster, &format!("ns:{{{name}}}")) == place)
            .unwrap()
    };
    let [there, here] = [lost, homes[0]].map(lock_at);
    // It comes first in every order that there is.
    let unlucky = b.watch(&there).await.unwrap();
    let mut waiting = b.watch(&here).await.unwrap();
    cluster.nodes_mut()[lost].kill().unwrap();
    assert_eq!(next(&mut waiting).await, Some(Hint::Rebuilt));
    until("a release is heard", async || {
        let owner = a.acquire(&here).await;
        released(&a, &owner).await;
        let hint = tokio::time::timeout(Duration::from_millis(500), waiting.next()).await;
        hint == Ok(Some(Hint::Free { place: 0 }))
    })
    .await;
    drop(unlucky);
}

/// A release holds the server no longer than for as many waiters as have a use for it.
#[tokio::test]
async fn a_crowd_is_not_told_all_at_once() {
    let server = Server::start(&Setup::new()).unwrap();
    let a = Process::born(server.url(), "ns").await;
    let b = Process::born(server.url(), "ns").await;
    let mut crowd = Vec::new();
    for _ in 0..65 {
        crowd.push(b.watch("k").await.unwrap());
    }
    let mut observing = b
        .backend
        .watch(&key("k"), &Watcher::Observer)
        .await
        .unwrap();
    let owner = a.acquire("k").await;
    released(&a, &owner).await;
    assert_eq!(next(&mut observing).await, Some(Hint::Free { place: 0 }));
    let mut last = crowd.pop().unwrap();
    assert_eq!(next(&mut crowd[63]).await, Some(Hint::Free { place: 63 }));
    assert_eq!(futures_util::FutureExt::now_or_never(last.next()), None);
    // Its turn comes when another leaves.
    drop(crowd.remove(0));
    until("the one that left is withdrawn", async || {
        enrolments(&server, "ns:{k}") == 65
    })
    .await;
    let owner = a.acquire("k").await;
    released(&a, &owner).await;
    assert_eq!(next(&mut last).await, Some(Hint::Free { place: 63 }));
}
