//! A primary of a cluster that stands still, is replaced by its replica, and goes on. Its kernel takes
//! what it is sent, so no connection to it breaks and nothing is refused; and when it goes on it serves
//! what lies in its sockets before it hears that it is no master any more.

use super::*;
use futures_util::StreamExt;
use futures_util::future::join_all;
use locker_core::backend::{Hint, Liveness, Renewal};

/// The master that stands still.
const PLACE: usize = 1;

/// Waits until the replica of the one that stands still has taken its place, and another master says so.
async fn is_replaced(servers: &Cluster) {
    let replica = &servers.nodes()[servers.replica_of(PLACE)];
    let other = &servers.nodes()[(PLACE + 1) % 3];
    let address = format!(":{}@", replica.port());
    until("the replica is promoted", async || {
        let nodes = other.command(&["CLUSTER", "NODES"]).unwrap();
        let line = nodes.lines().find(|line| line.contains(&address));
        let named = line.is_some_and(|line| line.contains("master"));
        named && replica.info("replication", "role").unwrap() == "master"
    })
    .await;
}

/// A process whose record lies on the one that is to stand still, for as long as this.
async fn born_there(servers: &Cluster, ttl: Duration) -> Process {
    loop {
        let process = Process::unborn(servers.url(), "ns").await;
        if place_of(servers, &format!("ns:process:{}", process.hash)) == PLACE {
            let born = process.backend.create_process(&process.hash, ttl).await;
            born.unwrap();
            return process;
        }
    }
}

/// Names of locks on this node.
fn locks_on(servers: &Cluster, place: usize) -> impl Iterator<Item = String> {
    let texts = (0..).map(|number| format!("k{number}"));
    texts.filter(move |text| place_of(servers, &format!("ns:{{{text}}}")) == place)
}

/// L6: nobody waits until a request has run out of time, and others are answered all the while.
#[tokio::test]
async fn who_has_little_patience_gets_through_to_the_replica_of_one_that_stands_still() {
    let servers = Cluster::start(&Setup::new(), 3, 1).unwrap();
    let process = Process::born(servers.url(), "ns").await;
    let there = locks_on(&servers, PLACE).next().unwrap();
    let elsewhere = locks_on(&servers, (PLACE + 1) % 3).next().unwrap();
    servers.nodes()[PLACE].pause().unwrap();
    is_replaced(&servers).await;
    let began = Instant::now();
    until("what lies there is granted", async || {
        let other = process.acquire(&elsewhere).await;
        process.backend.release(&other).await.unwrap();
        let owner = process.owner(&there);
        let created = process.create(&owner);
        let created = tokio::time::timeout(Duration::from_millis(500), created).await;
        matches!(created, Ok(Ok(Claimed::Granted(_))))
    })
    .await;
    println!("granted after {:?}", began.elapsed());
    servers.nodes()[PLACE].resume().unwrap();
}

/// L1: who waits for what lies there listens to it in vain. He hears of it once it is seen that another has its
/// slots.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_there_begins_to_wait_at_the_replica() {
    let servers = Cluster::start(&Setup::new(), 3, 1).unwrap();
    let waiter = Process::born(servers.url(), "ns").await;
    let there = locks_on(&servers, PLACE).next().unwrap();
    let mut hints = waiter.watch(&there).await.unwrap();
    servers.nodes()[PLACE].pause().unwrap();
    is_replaced(&servers).await;
    let hint = tokio::time::timeout(PATIENCE, hints.next()).await;
    assert_eq!(hint.expect("in time"), Some(Hint::Rebuilt));
    servers.nodes()[PLACE].resume().unwrap();
}

/// S1, S3: it finds the record of a process that has reported to its replica ever since, and its time is
/// over. That is no word of the store's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_replaced_and_goes_on_calls_nobody_dead() {
    /// Longer than it takes to replace it: an election that fails costs four seconds.
    const TTL: Duration = Duration::from_secs(30);
    const CLAIMANTS: usize = 8;
    let servers = Cluster::start(&Setup::new(), 3, 1).unwrap();
    let holder = born_there(&servers, TTL).await;
    let born = Instant::now();
    let text = &locks_on(&servers, (PLACE + 1) % 3).next().unwrap();
    holder.acquire(text).await;
    // Their connections are from before.
    let claimants = (0..CLAIMANTS).map(|_| Process::born(servers.url(), "ns"));
    let claimants = join_all(claimants).await;
    servers.nodes()[PLACE].pause().unwrap();
    is_replaced(&servers).await;
    let anew = Redis::from_url(servers.url()).unwrap().namespace("ns");
    let anew = anew.connect(Side::Caller).await.unwrap();
    let renewed = anew.renew_process(&holder.hash, LONG).await.unwrap().value;
    assert!(matches!(renewed, Renewal::Renewed { .. }), "{renewed:?}");
    let lives = anew.read_process(&holder.hash).await.unwrap().value;
    assert!(matches!(lives, Liveness::Alive(_)), "{lives:?}");
    tokio::time::sleep((TTL + Duration::from_millis(500)).saturating_sub(born.elapsed())).await;

    let looking = async |claimant: &Process| {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if let Ok(looked) = claimant.backend.read_process(&holder.hash).await {
                assert!(matches!(looked.value, Liveness::Alive(_)), "{looked:?}");
            }
        }
    };
    let claiming = async |claimant: &Process| {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            let owner = claimant.owner(text);
            let Ok(Claimed::Held(held)) = claimant.create(&owner).await else {
                continue;
            };
            assert_ne!(held.holder, Some(Liveness::Dead), "{held:?}");
            let heir = claim(&owner);
            if let Ok(taken) = claimant.backend.take_over(&heir, &held.observed).await {
                assert!(matches!(taken.value, Claimed::Held(_)), "{taken:?}");
            }
        }
    };
    let (lookers, claimants) = claimants.split_at(CLAIMANTS / 2);
    let looking = join_all(lookers.iter().map(looking));
    let claiming = join_all(claimants.iter().map(claiming));
    let resuming = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        servers.nodes()[PLACE].resume().unwrap();
    };
    tokio::join!(claiming, looking, resuming);
}
