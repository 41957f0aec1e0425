//! A primary of a cluster that takes no writes, or is dead: what it says, and what the client of the
//! cluster says of it, is about its own locks. The connections to the others stay open.

use super::*;
use distributed_locker::HeartbeatPolicy;
use locker_core::Timing;
use locker_testkit::wrap::{Counted, Method};

/// For so long it is asked. A locker that opened its connection at every failure would do so some ten times.
const WHILE: Duration = Duration::from_secs(5);

/// A locker that holds a lock on one primary, which then comes into trouble, and one on another.
struct Troubled {
    servers: Cluster,
    locker: Locker,
    counted: Counted,
    /// Which primary that is.
    place: usize,
    elsewhere: LockGuard,
    there: Option<LockGuard>,
}

impl Troubled {
    /// The primary is so many places behind that of the locker's own process.
    async fn new(behind: usize) -> Self {
        let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
        let store = Redis::from_url(servers.url()).unwrap().namespace("ns");
        let counted = Counted::new();
        let store = counted.around(Arc::new(store));
        let timing = Timing {
            lock_ttl: Duration::from_secs(30),
            extend_every: Duration::from_secs(2),
            recheck_every: Duration::from_secs(1),
            ..Timing::default()
        };
        let locker = Locker::builder(store).timing(timing);
        let locker = locker.start().await.unwrap();
        let process = locker.process_hash().unwrap();
        let place = (place_of(&servers, &format!("ns:process:{process}")) + behind) % 3;
        let hold = async |text: String| {
            let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
            let acquired = locker.acquire(text, options).await.unwrap();
            acquired.guard().unwrap()
        };
        let there = hold(lock_on(&servers, place, "there")).await;
        let elsewhere = hold(lock_on(&servers, (place + 1) % 3, "elsewhere")).await;
        Self {
            servers,
            locker,
            counted,
            place,
            elsewhere,
            there: Some(there),
        }
    }

    /// Somebody asks for what lies there, and somebody for what lies elsewhere, and is granted it.
    async fn is_asked(&self) {
        let there = lock_on(&self.servers, self.place, "asked");
        let elsewhere = lock_on(&self.servers, (self.place + 1) % 3, "asked");
        until("the locks have been checked", async || {
            opened(&self.counted) == [1, 1, 1]
        })
        .await;
        let end = Instant::now() + WHILE;
        let in_vain = async {
            while Instant::now() < end {
                let options = AcquireOptions::new().wait(Wait::For(Duration::from_millis(500)));
                let acquired = self.locker.acquire(there.as_str(), options).await;
                acquired.expect_err("it takes nothing");
            }
        };
        let granted = async {
            while Instant::now() < end {
                acquire(&self.locker, &elsewhere)
                    .await
                    .release()
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::join!(in_vain, granted);
        assert_eq!(opened(&self.counted), [1, 1, 1], "callers, upkeep, reports");
        assert!(self.elsewhere.is_valid());
    }
}

impl Troubled {
    /// A locker whose own process lies on that primary, and no lock of its.
    async fn itself() -> Self {
        let mut troubled = Self::new(0).await;
        let there = troubled.there.take().unwrap();
        there.release().await.unwrap();
        troubled
    }

    /// The process ends, because nothing renews it, and is retired in vain. The next one grants what lies
    /// elsewhere.
    async fn ends_and_goes_on(self) {
        let first = self.locker.process_hash().unwrap();
        let is_another = async || {
            let process = self.locker.process_hash();
            process.is_some_and(|process| process != first)
        };
        until("it is born again", is_another).await;
        // Nothing stands on it any more.
        drop(self.elsewhere);
        let elsewhere = lock_on(&self.servers, (self.place + 1) % 3, "asked");
        let end = Instant::now() + WHILE;
        while Instant::now() < end {
            let granted = acquire(&self.locker, &elsewhere).await;
            granted.release().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(opened(&self.counted), [1, 1, 1], "callers, upkeep, reports");
    }
}

/// How often the store was opened: for callers, for the upkeep of their locks, and for reports.
fn opened(counted: &Counted) -> [u64; 3] {
    let counts = counted.counts();
    [Side::Caller, Side::Upkeep, Side::Reports].map(|side| counts.from(side, Method::Connect))
}

/// The name of a lock on this node.
fn lock_on(servers: &Cluster, place: usize, what: &str) -> String {
    let mut texts = (0..).map(|number| format!("{what}{number}"));
    let lies_there = |text: &String| place_of(servers, &format!("ns:{{{text}}}")) == place;
    texts.find(lies_there).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_refuses_closes_no_connection_to_the_others() {
    let troubled = Troubled::new(1).await;
    let node = &troubled.servers.nodes()[troubled.place];
    let replicas = |count| node.command(&["CONFIG", "SET", "min-replicas-to-write", count]);
    replicas("1").unwrap();
    troubled.is_asked().await;
    replicas("0").unwrap();
    let again = lock_on(&troubled.servers, troubled.place, "again");
    let again = acquire(&troubled.locker, &again).await;
    assert!(again.is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_dead_closes_no_connection_to_the_others() {
    let mut troubled = Troubled::new(1).await;
    troubled.servers.nodes_mut()[troubled.place].kill().unwrap();
    troubled.is_asked().await;
    let node = &mut troubled.servers.nodes_mut()[troubled.place];
    node.start_again().unwrap();
    let again = lock_on(&troubled.servers, troubled.place, "again");
    let again = acquire(&troubled.locker, &again).await;
    assert!(again.is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_refuses_the_process_itself_closes_no_connection() {
    let troubled = Troubled::itself().await;
    let node = &troubled.servers.nodes()[troubled.place];
    let replicas = ["CONFIG", "SET", "min-replicas-to-write", "1"];
    node.command(&replicas).unwrap();
    troubled.ends_and_goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_died_with_the_process_closes_no_connection() {
    let mut troubled = Troubled::itself().await;
    troubled.servers.nodes_mut()[troubled.place].kill().unwrap();
    troubled.ends_and_goes_on().await;
}
