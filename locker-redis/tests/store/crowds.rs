//! What many tasks ask of a cluster at once travels in a pipeline to each primary (`primaries`).

use super::*;
use distributed_locker::{AcquireOptions, Acquired, Locker, Wait};
use futures_util::future::join_all;
use locker_core::Effect;
use locker_core::backend::Released;
use locker_testkit::servers::redis::Node;

/// How many tasks ask at once.
const MANY: usize = 64;

/// Three masters that nobody else uses, and a process.
struct Crowd {
    servers: Cluster,
    process: Process,
}

impl Crowd {
    async fn new() -> Self {
        let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
        let process = Process::born(servers.url(), "ns").await;
        Self { servers, process }
    }

    /// The same, when there is a pipeline to each primary.
    async fn with_pipelines() -> Self {
        let crowd = Self::new().await;
        crowd.has_pipelines().await;
        crowd
    }

    async fn has_pipelines(&self) {
        until("a connection to each primary", async || {
            self.acquires_and_releases("crowd").await;
            self.pipelines() == [1; 3]
        })
        .await;
    }

    /// Each of many acquires a key of its own, and gives it back, and is told that both were done.
    async fn acquires_and_releases(&self, what: &str) {
        let pairs = (0..MANY).map(|place| async move {
            let owner = self.process.acquire(&format!("{what}{place}")).await;
            self.process.backend.release(&owner).await.unwrap().value
        });
        let released = join_all(pairs).await;
        assert_eq!(released, vec![Released::Done; MANY]);
    }

    /// How many connections each primary has that have last run a script, besides that of the client
    /// of the cluster.
    fn pipelines(&self) -> [usize; 3] {
        let nodes = self.servers.nodes();
        [0, 1, 2].map(|place: usize| scripting(&nodes[place]).len().saturating_sub(1))
    }

    fn place_of(&self, text: &str) -> usize {
        let slot = self.servers.slot_of(&format!("ns:{{{text}}}")).unwrap();
        self.servers.node_of(slot).unwrap()
    }
}

/// The connections of a node, a line each.
fn clients(node: &Node) -> String {
    node.command(&["CLIENT", "LIST", "TYPE", "NORMAL"]).unwrap()
}

/// The numbers of the connections of a node that have last run a script.
fn scripting(node: &Node) -> Vec<u64> {
    let clients = clients(node);
    let scripting = clients
        .lines()
        .filter(|client| client.contains(" cmd=evalsha "));
    let number = |client: &str| {
        let (number, _) = client.strip_prefix("id=")?.split_once(' ')?;
        number.parse().ok()
    };
    scripting.filter_map(number).collect()
}

#[tokio::test]
async fn only_a_crowd_opens_connections_of_its_own() {
    let crowd = Crowd::new().await;
    let connections = || -> Vec<usize> {
        let nodes = crowd.servers.nodes().iter();
        nodes.map(|node| clients(node).lines().count()).collect()
    };
    let before = connections();
    for _ in 0..2 {
        for place in 0..MANY {
            let owner = crowd.process.acquire(&format!("alone{place}")).await;
            let released = crowd.process.backend.release(&owner).await.unwrap().value;
            assert_eq!(released, Released::Done);
        }
    }
    assert_eq!(connections(), before);
    crowd.has_pipelines().await;
    let Crowd { servers, process } = crowd;
    drop(process);
    until("the connections are closed", async || {
        servers
            .nodes()
            .iter()
            .all(|node| scripting(node).is_empty())
    })
    .await;
}

/// A node that has not the slot any more refuses, and the client of the cluster goes on: nobody is
/// told anything but that it was done, and done once. Then the chart is drawn anew.
#[tokio::test]
async fn slots_that_move_under_a_crowd_disturb_nobody() {
    let crowd = Crowd::with_pipelines().await;
    // The crowd has rung more than once for its first chart: that one is drawn twice.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let servers = &crowd.servers;
    // Not the first that is asked of its primary, which travels alone.
    let slot = servers.slot_of("ns:{asked33}").unwrap();
    let from = servers.node_of(slot).unwrap();
    let to = (from + 1) % 3;
    let moved = || -> u64 {
        let count = servers.nodes()[from].info("errorstats", "errorstat_MOVED");
        let count = count.unwrap_or_default();
        let digits = count.trim_start_matches("count=");
        digits.parse().unwrap_or_default()
    };
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

/// A connection that breaks while nothing is in flight is noticed, and opened again.
#[tokio::test]
async fn a_broken_connection_of_a_crowd_is_replaced() {
    let crowd = Crowd::with_pipelines().await;
    for node in crowd.servers.nodes() {
        let youngest = scripting(node).into_iter().max().unwrap();
        let kill = ["CLIENT", "KILL", "ID", &youngest.to_string()];
        node.command(&kill).unwrap();
    }
    assert_eq!(crowd.pipelines(), [0; 3]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    crowd.acquires_and_releases("crowd").await;
    crowd.has_pipelines().await;
}

/// What was in flight on a connection that breaks is of unknown effect, and is not done twice: a second
/// release would say that the lock was gone.
#[tokio::test]
async fn a_pipeline_that_breaks_is_not_sent_again() {
    let crowd = Crowd::with_pipelines().await;
    let process = &crowd.process;
    let keys: Vec<_> = (0..MANY).map(|place| format!("lost{place}")).collect();
    let owners = join_all(keys.iter().map(|key| process.acquire(key))).await;
    let node = &crowd.servers.nodes()[0];
    let there = keys.iter().map(|key| crowd.place_of(key) == 0);
    let there: Vec<_> = there.collect();
    let line = scripting(node).into_iter().max().unwrap();
    let mut admin = node.admin().unwrap();
    node.pause().unwrap();
    let release = |owner| process.backend.release(owner);
    let mut releasing = Box::pin(join_all(owners.iter().map(release)));
    tokio::select! {
        _ = &mut releasing => panic!("a stalled server has answered"),
        () = tokio::time::sleep(Duration::from_millis(200)) => (),
    }
    // In one turn of the server: it does what was sent, and closes the connection before it answers.
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("ID").arg(line);
    admin
        .send_packed_command(&kill.get_packed_command())
        .unwrap();
    node.resume().unwrap();
    let mut unknown = 0;
    let released = tokio::time::timeout(PATIENCE, releasing).await.unwrap();
    for (released, there) in released.into_iter().zip(there) {
        match released {
            Ok(released) => assert_eq!(released.value, Released::Done),
            Err(error) => {
                assert!(there, "{error}");
                assert_eq!(error.effect(), Effect::Unknown, "{error}");
                unknown += 1;
            }
        }
    }
    assert!(unknown > 0, "nothing was in flight");
    crowd.has_pipelines().await;
}

/// A server that has forgotten the scripts refuses each of a pipeline.
#[tokio::test]
async fn forgotten_scripts_are_told_to_a_crowd() {
    let crowd = Crowd::with_pipelines().await;
    for node in crowd.servers.nodes() {
        node.command(&["SCRIPT", "FLUSH"]).unwrap();
    }
    crowd.acquires_and_releases("crowd").await;
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
            assert_eq!(error.kind(), locker_core::ErrorKind::Corrupt);
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
    assert!(took < Duration::from_millis(900), "took {took:?}");
    waiting.await;
}

/// S7, L8: whatever point a crowd is dropped at, no lock stays; also while a slot moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crowd_drops_leaves_no_lock_behind() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let store = Redis::from_url(servers.url()).unwrap().namespace("ns");
    let locker = Locker::builder(Arc::new(store)).start().await.unwrap();
    let tasks = (0..MANY).map(|place| {
        let locker = locker.clone();
        tokio::spawn(async move {
            let key = format!("dropped{place}");
            let (mut granted, mut dropped) = (0_u32, 0_u32);
            for round in 0..100_u64 {
                let options = AcquireOptions::new().wait(Wait::Forever);
                let patience = Duration::from_micros(RandomState::new().hash_one(round) % 40_000);
                let acquired = tokio::time::timeout(patience, locker.acquire(&*key, options)).await;
                match acquired {
                    Ok(Ok(Acquired::Guard(guard))) => {
                        granted += 1;
                        if round % 2 == 0 {
                            guard.release().await.unwrap();
                        }
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => dropped += 1,
                }
            }
            (granted, dropped)
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let slot = servers.slot_of("ns:{dropped33}").unwrap();
    servers
        .move_slot(slot, (servers.node_of(slot).unwrap() + 1) % 3)
        .unwrap();
    let (mut granted, mut dropped) = (0, 0);
    for task in tasks {
        let counts = task.await.unwrap();
        (granted, dropped) = (granted + counts.0, dropped + counts.1);
    }
    assert!(
        granted > 1_000 && dropped > 1_000,
        "{granted} granted, {dropped} dropped"
    );
    for place in 0..MANY {
        let key = format!("dropped{place}");
        until("a lock that was dropped is free", async || {
            locker.read_lock_data(&*key).await.unwrap().is_none()
        })
        .await;
    }
    locker.terminate(PATIENCE).await.unwrap();
}
