//! What many tasks ask of a cluster at once travels in a pipeline to each primary (`primaries`).

use super::crowd::*;
use super::*;
use distributed_locker::ReleaseError;
use futures_util::future::join_all;
use locker_core::backend::{Liveness, Released};
use locker_core::{ErrorKind, Timing};
use redis::cluster_routing::Slot;

/// What travels alone travels there as well, from the first on.
#[tokio::test]
async fn a_connection_to_each_primary_is_there_from_the_start_and_goes_with_the_store() {
    let crowd = Crowd::new().await;
    let connections = || -> Vec<usize> {
        let nodes = crowd.servers.nodes().iter();
        nodes.map(|node| clients(node).lines().count()).collect()
    };
    let before = connections();
    for place in 0..3 {
        let texts = crowd.texts_at(place, "alone", 3);
        for text in texts {
            let owner = crowd.process.acquire(&text).await;
            let released = crowd.process.backend.release(&owner).await.unwrap().value;
            assert_eq!(released, Released::Done);
        }
        assert_eq!(crowd.lines()[place].len(), 1);
    }
    assert_eq!(connections(), before);
    crowd.acquires_and_releases("crowd").await;
    assert_eq!(connections(), before);
    let Crowd { servers, process } = crowd;
    drop(process);
    until("the connections are closed", async || {
        servers.nodes().iter().all(|node| lines(node).is_empty())
    })
    .await;
}

/// A node that has not the slot any more refuses, and the client of the cluster goes on: nobody is
/// told anything but that it was done, and done once. Then the chart is drawn anew.
#[tokio::test]
async fn slots_that_move_under_a_crowd_disturb_nobody() {
    let crowd = Crowd::with_pipelines().await;
    let servers = &crowd.servers;
    // Not the first that is asked of its primary, which travels alone.
    let slot = servers.slot_of("ns:{asked33}").unwrap();
    let from = servers.node_of(slot).unwrap();
    let to = (from + 1) % 3;
    let moved = || refusals(&servers.nodes()[from], "MOVED");
    servers.begin_move(slot, to).unwrap();
    // Neither node has the key: the old one answers ASK.
    crowd.acquires_and_releases("asked").await;
    servers.move_keys(slot, from, to).unwrap();
    crowd.acquires_and_releases("asked").await;
    servers.end_move(slot, to).unwrap();
    crowd.acquires_and_releases("asked").await;
    assert!(moved() > 0, "the chart was wrong for once");
    until("a chart that is right", async || {
        let before = moved();
        crowd.acquires_and_releases("asked").await;
        moved() == before
    })
    .await;
}

/// A holder's process is read by the connection to its primary, and where that one has it no more, has
/// forgotten the script or has closed the connection, it is read all the same.
#[tokio::test]
async fn a_holders_process_is_read_wherever_it_lies() {
    let crowd = Crowd::with_pipelines().await;
    let process = &crowd.process;
    let name = format!("ns:process:{}", process.hash);
    let slot = crowd.servers.slot_of(&name).unwrap();
    let place = crowd.servers.node_of(slot).unwrap();
    let node = &crowd.servers.nodes()[place];
    // On a connection that does not break.
    let text = &crowd.texts_at((place + 1) % 3, "held", 1)[0];
    process.acquire(text).await;
    let is_read = async |what: &str| {
        let held = process.create(&process.owner(text)).await.unwrap();
        let Claimed::Held(held) = held else {
            panic!("{what}: {held:?}")
        };
        assert!(matches!(held.holder, Some(Liveness::Alive(_))), "{what}");
    };
    is_read("as ever").await;
    let line = crowd.lines()[place].remove(0);
    node.command(&["SCRIPT", "FLUSH"]).unwrap();
    let monitor = Monitor::of(node);
    is_read("forgotten").await;
    let heard = monitor.heard(node);
    let words = ["\"EVAL\"", &name, &line.address];
    let told = |it: &String| words.iter().all(|word| it.contains(word));
    assert!(heard.iter().any(told), "{heard:#?}");
    node.command(&["CLIENT", "KILL", "ID", &line.number])
        .unwrap();
    is_read("closed").await;
    crowd.servers.move_slot(slot, (place + 1) % 3).unwrap();
    is_read("moved").await;
}

/// A server that has forgotten the scripts refuses each of a pipeline. It is told them over the same
/// connection, and nothing is wrong with the chart.
#[tokio::test]
async fn forgotten_scripts_are_told_to_a_crowd() {
    let crowd = Crowd::with_pipelines().await;
    let lines = crowd.lines();
    crowd.chart_is_drawn().await;
    let nodes = crowd.servers.nodes();
    let monitors: Vec<_> = nodes.iter().map(Monitor::of).collect();
    for node in nodes {
        node.command(&["SCRIPT", "FLUSH"]).unwrap();
        // Whoever is told first must not tell it before the others are sent.
        node.pause().unwrap();
    }
    let resumed = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for node in nodes {
            node.resume().unwrap();
        }
    };
    tokio::join!(crowd.acquires_and_releases("crowd"), resumed);
    tokio::time::sleep(Duration::from_millis(200)).await;
    for ((monitor, node), lines) in monitors.into_iter().zip(nodes).zip(lines) {
        let heard = monitor.heard(node);
        let told = heard.iter().position(|line| line.contains("\"EVAL\""));
        let told = told.expect("the script was told");
        let on_a_line = |line: &str| lines.iter().any(|it| line.contains(&it.address));
        let in_pipelines = |line: &&String| line.contains("\"EVALSHA\"") && on_a_line(line);
        let refused = heard[..told].iter().filter(in_pipelines).count();
        assert!(refused > 1, "a pipeline was refused: {heard:#?}");
        assert!(refusals(node, "NOSCRIPT") >= refused as u64);
        let told_elsewhere = heard
            .iter()
            .find(|line| line.contains("\"EVAL\"") && !on_a_line(line));
        assert_eq!(told_elsewhere, None);
        let drawn = heard.iter().find(|line| line.contains("\"SLOTS\""));
        assert_eq!(drawn, None);
    }
}

/// One member's own failure is its own.
#[tokio::test]
async fn a_foreign_value_fails_its_own_member_of_a_crowd() {
    let crowd = Crowd::with_pipelines().await;
    let place = crowd.place_of("crowd7");
    crowd.servers.nodes()[place]
        .command(&["SET", "ns:{crowd7}", "foreign"])
        .unwrap();
    let process = &crowd.process;
    let created = (0..MANY).map(|place| {
        let owner = crowd.process.owner(&format!("crowd{place}"));
        async move { process.create(&owner).await }
    });
    for (place, created) in join_all(created).await.into_iter().enumerate() {
        if place == 7 {
            let error = created.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        } else {
            token(&created.unwrap());
        }
    }
}

/// Each primary has a gate of its own.
#[tokio::test]
async fn a_primary_that_stalls_keeps_only_its_own_crowd_waiting() {
    let crowd = Crowd::with_pipelines().await;
    let stalled = crowd.place_of("crowd0");
    let (there, elsewhere): (Vec<_>, Vec<_>) = (0..4 * MANY)
        .map(|place| format!("crowd{place}"))
        .partition(|text| crowd.place_of(text) == stalled);
    crowd.servers.nodes()[stalled].pause().unwrap();
    let process = &crowd.process;
    let acquire = |text: String| async move { process.acquire(&text).await };
    let mut waiting = Box::pin(join_all(there.into_iter().map(acquire)));
    let began = Instant::now();
    tokio::select! {
        _ = &mut waiting => panic!("a stalled server has answered"),
        () = tokio::time::sleep(PATIENCE) => panic!("a stalled server keeps others waiting"),
        owners = join_all(elsewhere.into_iter().map(acquire)) => assert!(!owners.is_empty()),
    }
    let took = began.elapsed();
    crowd.servers.nodes()[stalled].resume().unwrap();
    // Less than a request may take. Behind the one that stalls they would wait for as long as it does.
    assert!(took < Duration::from_millis(1500), "took {took:?}");
    waiting.await;
}

/// Nobody here knows how long a caller waits, so nobody here takes a slow primary for a dead one.
#[tokio::test]
async fn a_slow_primary_keeps_its_connection() {
    let crowd = Crowd::with_pipelines().await;
    let before = crowd.lines();
    let node = &crowd.servers.nodes()[0];
    let process = &crowd.process;
    let texts = crowd.texts_at(0, "slow", MANY / 2);
    node.pause().unwrap();
    let acquiring = join_all(texts.iter().map(|text| process.acquire(text)));
    // Longer than the least pause of whoever draws the chart.
    let gave_up = tokio::time::timeout(Duration::from_millis(1_600), acquiring).await;
    node.resume().unwrap();
    assert!(gave_up.is_err(), "a stalled server has answered");
    crowd.acquires_and_releases("crowd").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    crowd.acquires_and_releases("crowd").await;
    assert_eq!(crowd.lines(), before);
}

/// Of several that say ASKING over one connection only one gets through at a time. The client of
/// the cluster tries often enough for three, and our own connection takes any number.
#[tokio::test]
async fn several_locks_of_a_slot_that_is_half_moved_are_granted_at_once() {
    let crowd = Crowd::new().await;
    let slot_of = |text: &str| Slot::for_key(format!("ns:{{{text}}}").as_bytes());
    let texts = (0..).map(|number| format!("half{number}"));
    let texts = texts.filter(|text| slot_of(text) == slot_of("half0"));
    let texts: Vec<_> = texts.take(8).collect();
    let slot = crowd.servers.slot_of("ns:{half0}").unwrap();
    let from = crowd.servers.node_of(slot).unwrap();
    crowd.servers.begin_move(slot, (from + 1) % 3).unwrap();
    for many in [3, 8] {
        for _ in 0..10 {
            for released in pairs(&crowd.process, &texts[..many]).await {
                assert_eq!(released.unwrap(), Released::Done);
            }
        }
        crowd.has_pipelines().await;
    }
    assert!(refusals(&crowd.servers.nodes()[from], "ASK") > 0);
}

/// What a primary has refused is asked again by its own caller, and by nobody else.
#[tokio::test]
async fn what_is_refused_when_its_caller_has_left_is_not_sent_again() {
    let crowd = Crowd::with_pipelines().await;
    let (servers, process) = (&crowd.servers, &crowd.process);
    let slot = servers.slot_of("ns:{left}").unwrap();
    let from = servers.node_of(slot).unwrap();
    let (old, new) = (&servers.nodes()[from], &servers.nodes()[(from + 1) % 3]);
    let others = crowd.texts_at(from, "other", MANY / 2);
    crowd.chart_is_drawn().await;
    servers.move_slot(slot, (from + 1) % 3).unwrap();
    let moved = refusals(old, "MOVED");
    let monitor = Monitor::of(new);
    old.pause().unwrap();
    let mut others = Box::pin(pairs(process, &others));
    let owner = process.owner("left");
    let mut left = Box::pin(process.create(&owner));
    tokio::select! {
        biased;
        _ = &mut others => panic!("a stalled server has answered"),
        _ = &mut left => panic!("a stalled server has answered"),
        () = tokio::time::sleep(Duration::from_millis(200)) => (),
    }
    drop(left);
    old.resume().unwrap();
    for released in others.await {
        assert_eq!(released.unwrap(), Released::Done);
    }
    assert_eq!(
        refusals(old, "MOVED"),
        moved + 1,
        "it was sent, and refused"
    );
    // Whoever would send it has had its turn.
    crowd.acquires_and_releases("crowd").await;
    let heard = monitor.heard(new);
    let sent = heard.iter().find(|line| line.contains("ns:{left}"));
    assert_eq!(sent, None);
}

/// The new primary has the pipelines of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_promoted_gets_the_crowd_of_its_master() {
    let mut crowd = Crowd::with_replicas(1).await;
    crowd.has_pipelines().await;
    let slot = crowd.servers.slot_of("ns:{fails33}").unwrap();
    let master = crowd.servers.node_of(slot).unwrap();
    let texts = |what| (0..MANY).map(move |place| format!("{what}{place}"));
    let (process, asked) = (
        Arc::clone(&crowd.process),
        texts("fails").collect::<Vec<_>>(),
    );
    let asking = tokio::spawn(async move {
        loop {
            for released in pairs(&process, &asked).await {
                if let Err(error) = released {
                    assert!(error.kind().is_transient(), "{error:?}");
                }
            }
        }
    });
    crowd.servers.nodes_mut()[master].kill().unwrap();
    let promoted = crowd.servers.promoted_after(slot, master).unwrap();
    asking.abort();
    assert!(
        asking.await.unwrap_err().is_cancelled(),
        "it went on asking"
    );
    let node = &crowd.servers.nodes()[promoted];
    // Others: a release of unknown effect may have left its lock.
    let texts: Vec<_> = texts("after").collect();
    // A locker bounds every request. The client of the cluster may leave one without an answer whose
    // connection it has lost.
    let limit = Timing::default().request_timeout * 2;
    until("a connection to the new primary", async || {
        let released = tokio::time::timeout(limit, pairs(&crowd.process, &texts));
        let released = released.await.unwrap_or_default();
        released.len() == texts.len()
            && released
                .into_iter()
                .all(|released| released.is_ok_and(|it| it == Released::Done))
            && !lines(node).is_empty()
    })
    .await;
}

/// S7, L8: whatever point a crowd is dropped at, no lock stays; also while a slot moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crowd_drops_leaves_no_lock_behind() {
    /// How many grants and how many drops each task shall have seen.
    const EACH: u32 = 20;
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let (locker, _) = locker(&servers).await;
    holds_in_pipelines(&servers, &locker).await;
    let tasks = (0..MANY).map(|place| {
        let locker = locker.clone();
        tokio::spawn(async move {
            let key = format!("dropped{place}");
            let (mut granted, mut dropped) = (0, 0);
            // Halved and doubled, so that on every machine some are granted and some dropped.
            let mut most = Duration::from_millis(20);
            while granted < EACH || dropped < EACH {
                let options = AcquireOptions::new().wait(Wait::Forever);
                let part = RandomState::new().hash_one(dropped) % 1_000;
                let patience = most * u32::try_from(part).unwrap() / 1_000;
                let acquired = tokio::time::timeout(patience, locker.acquire(&*key, options)).await;
                match acquired {
                    Ok(Ok(Acquired::Guard(guard))) => {
                        granted += 1;
                        most = (most / 2).max(Duration::from_micros(100));
                        if granted % 2 == 0 {
                            // One that meets the slot on its way goes on in the background.
                            let released = guard.release().await;
                            let lost = matches!(released, Err(ReleaseError::Lost(_)));
                            assert!(!lost, "{released:?}");
                        }
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => {
                        dropped += 1;
                        most = (most * 2).min(PATIENCE);
                    }
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let slot = servers.slot_of("ns:{dropped33}").unwrap();
    servers
        .move_slot(slot, (servers.node_of(slot).unwrap() + 1) % 3)
        .unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    for place in 0..MANY {
        let key = format!("dropped{place}");
        until("a lock that was dropped is free", async || {
            matches!(locker.read_lock_data(&*key).await, Ok(None))
        })
        .await;
    }
    for node in servers.nodes() {
        assert!(!lines(node).is_empty(), "nothing travelled in pipelines");
    }
    locker.terminate(PATIENCE).await.unwrap();
}
