//! A primary of a cluster that hangs: connections to it are open, or can be opened, and nothing
//! comes. The others go on.

use super::*;
use distributed_locker::HeartbeatPolicy;
use futures_util::StreamExt;
use futures_util::future::join_all;
use locker_core::backend::{Hint, Liveness, Standing};
use locker_core::{Effect, ErrorKind, Timing};
use locker_testkit::scaled;
use tokio::task::JoinHandle;

/// The key of the lock whose slot moves.
const MOVED: &str = "ns:{moved}";

/// The least time of a request that a cluster has room in while a primary hangs (README).
const REQUEST: Duration = Duration::from_millis(600);
/// How long anything elsewhere may take beside it, on a busy machine. The one that hangs may be waited for
/// by 0.25 s (README). A wait for a connection to it takes one second, for a subscription three, and for
/// an answer it never ends.
const SOON: Duration = Duration::from_millis(900);

/// Three masters. One hangs, and a slot has moved between the two others, which no client has
/// heard.
struct Hung {
    servers: Cluster,
    /// Which one hangs.
    place: usize,
    /// Names of locks that do not lie there.
    elsewhere: Vec<String>,
}

impl Hung {
    fn new(servers: Cluster, place: usize) -> Self {
        let elsewhere = elsewhere(&servers, place);
        let from = place_of(&servers, MOVED);
        let to = (0..3).find(|it| ![from, place].contains(it)).unwrap();
        let slot = servers.slot_of(MOVED).unwrap();
        servers.move_slot(slot, to).unwrap();
        servers.nodes()[place].pause().unwrap();
        Self {
            servers,
            place,
            elsewhere,
        }
    }
}

/// Names of locks that do not lie on this node.
fn elsewhere(servers: &Cluster, place: usize) -> Vec<String> {
    let texts = (0..20).map(|number| format!("k{number}"));
    let texts = texts.filter(|text| place_of(servers, &format!("ns:{{{text}}}")) != place);
    texts.collect()
}

/// A process whose record lies on a node that is wanted.
async fn born_where(servers: &Cluster, wanted: impl Fn(usize) -> bool) -> Process {
    loop {
        let process = Process::unborn(servers.url(), "ns").await;
        if wanted(place_of(servers, &format!("ns:process:{}", process.hash))) {
            let born = process.backend.create_process(&process.hash, LONG).await;
            born.unwrap();
            return process;
        }
    }
}

/// A request that is sent on to another node, so that the client of the cluster reads the slots anew, and
/// carries nothing before the primary that hangs has been waited for.
async fn blocked(process: &Process) -> JoinHandle<()> {
    let backend = Arc::clone(&process.backend);
    let blocked = tokio::spawn(async move { drop(backend.read_lock(&key("moved")).await) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    blocked
}

/// A node that holds neither this key nor the lock that moves.
fn other_than_of(servers: &Cluster, name: &str) -> usize {
    let (place, moved) = (place_of(servers, name), place_of(servers, MOVED));
    (0..3).find(|it| ![place, moved].contains(it)).unwrap()
}

/// The client reads the slots anew, and waits for the one that hangs before it carries anything.
#[tokio::test]
async fn a_primary_that_hangs_stops_the_others_for_a_while_only() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let process = Process::born(servers.url(), "ns").await;
    let hung = other_than_of(&servers, MOVED);
    let hung = Hung::new(servers, hung);
    let acquiring = hung.elsewhere.iter().map(String::as_str).chain(["moved"]);
    let acquiring = join_all(acquiring.map(|text| process.acquire(text)));
    // Twice for an answer, once for a connection.
    let answered = tokio::time::timeout(Duration::from_secs(14), acquiring).await;
    answered.expect("the others answer");
}

/// L6: a locker that has to open its connection meanwhile can do so, in the time that it gives to
/// that.
#[tokio::test]
async fn a_cluster_of_which_one_primary_hangs_can_be_opened() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let hung = other_than_of(&servers, MOVED);
    let hung = Hung::new(servers, hung);
    let timeout = Timing::default().request_timeout;
    let opening = Process::unborn(hung.servers.url(), "ns");
    let opened = tokio::time::timeout(4 * timeout, opening).await;
    let process = opened.expect("it is opened in time");
    let acquiring = join_all(hung.elsewhere.iter().map(|text| process.acquire(text)));
    let acquired = tokio::time::timeout(timeout, acquiring).await;
    acquired.expect("the others answer");
}

/// L6: also a locker that gives little time to a request, and so to an opening, can be started then, and
/// grants what lies elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locker_of_short_requests_starts_beside_a_primary_that_hangs() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let hung = 1;
    servers.nodes()[hung].pause().unwrap();
    let store = || Redis::from_url(servers.url()).unwrap().namespace("ns");
    for side in [Side::Caller, Side::Upkeep, Side::Reports] {
        let began = Instant::now();
        store().connect(side).await.unwrap();
        let took = began.elapsed();
        println!("{side:?}: {took:?}");
        // A locker gives four request timeouts to it, which is twice the 1.2 s of the README.
        assert!(took < 4 * REQUEST, "{side:?}: {took:?}");
    }
    let timing = Timing {
        request_timeout: REQUEST,
        ..Timing::default()
    };
    // A process that would lie on the one that hangs is given up, and another is born.
    let locker = Locker::builder(Arc::new(store())).timing(timing);
    let locker = locker.start().await.unwrap();
    let grants = async {
        for text in elsewhere(&servers, hung) {
            drop(acquire(&locker, &text).await.release().await);
        }
    };
    let granted = tokio::time::timeout(Duration::from_secs(5), grants).await;
    granted.expect("the others answer");
    servers.nodes()[hung].resume().unwrap();
    locker.terminate(PATIENCE).await.unwrap();
}

/// L5: whose locks lie elsewhere is not asked to wait for it: what was answered counts.
#[tokio::test]
async fn a_batch_does_not_wait_for_a_primary_that_hangs() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let process = Process::born(servers.url(), "ns").await;
    let texts: Vec<_> = (0..20).map(|number| format!("k{number}")).collect();
    let owners = join_all(texts.iter().map(|text| process.acquire(text))).await;
    let hung = place_of(&servers, "ns:{k0}");
    servers.nodes()[hung].pause().unwrap();
    let (extend, check) = tokio::join!(
        tokio::time::timeout(SOON, process.backend.extend(&owners, LONG)),
        tokio::time::timeout(SOON, process.backend.check(&owners)),
    );
    for answered in [extend, check] {
        let standings = answered.expect("in time").unwrap().value;
        assert_eq!(standings.len(), texts.len());
        for (standing, text) in standings.into_iter().zip(&texts) {
            if place_of(&servers, &format!("ns:{{{text}}}")) == hung {
                let error = standing.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Busy, "{text}: {error}");
                assert_eq!(error.effect(), Effect::Unknown, "{text}: {error}");
            } else {
                assert_eq!(standing.unwrap(), Standing::Mine, "{text}");
            }
        }
    }
    servers.nodes()[hung].resume().unwrap();
    // What was not answered may be asked again.
    let standings = process.backend.extend(&owners, LONG).await.unwrap().value;
    for standing in standings {
        assert_eq!(standing.unwrap(), Standing::Mine);
    }
}

/// L2: also what a claim on a sound primary is told of the holder's process, and what it takes over, while
/// the client of the cluster carries nothing. Where that process lies on the one that hangs the claim is
/// refused without it.
#[tokio::test]
async fn a_claim_elsewhere_is_answered_beside_a_primary_that_hangs() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let hung = (place_of(&servers, MOVED) + 1) % 3;
    let claimant = Process::born(servers.url(), "ns").await;
    let sound = born_where(&servers, |place| place != hung).await;
    let silent = born_where(&servers, |place| place == hung).await;
    let dead = born_where(&servers, |place| place != hung).await;
    let [of_sound, of_silent, of_dead] =
        <[String; 3]>::try_from(elsewhere(&servers, hung)[..3].to_vec()).unwrap();
    sound.acquire(&of_sound).await;
    silent.acquire(&of_silent).await;
    dead.acquire(&of_dead).await;
    dead.backend.retire_process(&dead.hash).await.unwrap();
    let _hung = Hung::new(servers, hung);
    let blocked = blocked(&claimant).await;
    let claim_of = async |text: &str| {
        let created = claimant.create(&claimant.owner(text)).await.unwrap();
        let Claimed::Held(held) = created else {
            panic!("{text}: {created:?}")
        };
        held
    };
    let answered = async {
        let held = claim_of(&of_sound).await;
        assert!(matches!(held.holder, Some(Liveness::Alive(_))), "{held:?}");
        let held = claim_of(&of_dead).await;
        assert!(matches!(held.holder, Some(Liveness::Dead)), "{held:?}");
        let heir = claim(&claimant.owner(&of_dead));
        let taken = claimant.backend.take_over(&heir, &held.observed).await;
        token(&taken.unwrap().value);
        let held = claim_of(&of_silent).await;
        assert_eq!(held.holder, None, "{held:?}");
    };
    // All together.
    let answered = tokio::time::timeout(SOON, answered).await;
    answered.expect("in time");
    // Who only looks at the lock is not kept waiting either.
    for text in [&of_sound, &of_silent] {
        let key = key(text);
        let read = tokio::time::timeout(SOON, claimant.backend.read_lock(&key)).await;
        let held = read.expect("in time").unwrap().value.unwrap();
        assert_eq!(held.holder.is_some(), text == &of_sound, "{held:?}");
    }
    assert!(!blocked.is_finished(), "the client of the cluster went on");
    blocked.abort();
}

/// L1: who waits elsewhere, or begins to, is woken beside somebody who waits for a lock that lies there. And
/// that one has no reason to close a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_elsewhere_is_woken_beside_one_who_waits_in_vain() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let (owner, waiter) = (
        Process::born(servers.url(), "ns").await,
        Process::born(servers.url(), "ns").await,
    );
    let hung = place_of(&servers, "ns:{there}");
    let [before, after] = <[String; 2]>::try_from(elsewhere(&servers, hung)[..2].to_vec()).unwrap();
    let owners = join_all([&before, &after].map(|text| owner.acquire(text))).await;
    let waits_before = waiter.watch(&before).await.unwrap();
    servers.nodes()[hung].pause().unwrap();
    let timeout = Timing::default().request_timeout;
    let in_vain = async {
        loop {
            if let Ok(watched) = tokio::time::timeout(timeout, waiter.watch("there")).await {
                let error = watched.err().expect("it hangs");
                assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
                assert!(error.is_unanswered(), "{error:?}");
            }
            tokio::time::sleep(Timing::default().retry_after).await;
        }
    };
    let woken = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let waits_after = tokio::time::timeout(timeout, waiter.watch(&after)).await;
        let waits_after = waits_after.expect("in time").unwrap();
        for (owner_hash, mut hints) in owners.iter().zip([waits_before, waits_after]) {
            owner.backend.release(owner_hash).await.unwrap();
            let hint = tokio::time::timeout(SOON, hints.next()).await;
            assert_eq!(hint.expect("in time"), Some(Hint::Free { place: 0 }));
        }
    };
    tokio::select! {
        () = in_vain => unreachable!("it waits for ever"),
        () = woken => (),
    }
}

/// L1: a subscription that says nothing is asked whether it is there, on a cluster at each primary. That one of
/// them does not answer disturbs nobody who waits elsewhere, or begins to, however many wait there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_elsewhere_is_woken_beside_one_that_hangs_for_long() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let (owner, waiter) = (
        Process::born(servers.url(), "ns").await,
        Process::born(servers.url(), "ns").await,
    );
    let hung = (place_of(&servers, MOVED) + 1) % 3;
    let mut texts = elsewhere(&servers, hung);
    let held = texts.pop().unwrap();
    let lock = owner.acquire(&held).await;
    let mut woken = waiter.watch(&held).await.unwrap();
    let mut waits = Vec::new();
    for number in 0..100 {
        waits.push(waiter.watch(&format!("before{number}")).await.unwrap());
    }
    let _hung = Hung::new(servers, hung);
    // It is asked after five seconds, and all have three to answer.
    let end = Instant::now() + Duration::from_secs(10);
    let mut slowest = Duration::ZERO;
    for text in texts.iter().cycle() {
        if Instant::now() > end {
            break;
        }
        let began = Instant::now();
        waits.push(waiter.watch(text).await.unwrap());
        slowest = slowest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("slowest: {slowest:?}");
    assert!(slowest < SOON, "{slowest:?}");
    owner.backend.release(&lock).await.unwrap();
    let hint = tokio::time::timeout(SOON, woken.next()).await;
    assert_eq!(hint.expect("in time"), Some(Hint::Free { place: 0 }));
}

/// L1: beside a primary that is dead, and that many wait for, who waits elsewhere is enrolled again, and who
/// begins to is enrolled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_elsewhere_is_enrolled_beside_one_that_is_dead() {
    let mut servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let waiter = Process::born(servers.url(), "ns").await;
    let dead = place_of(&servers, "ns:{there}");
    let texts = elsewhere(&servers, dead);
    let mut woken = waiter.watch(&texts[0]).await.unwrap();
    let mut waits = Vec::new();
    for number in 0..100 {
        waits.push(waiter.watch(&format!("before{number}")).await.unwrap());
    }
    servers.nodes_mut()[dead].kill().unwrap();
    let hint = tokio::time::timeout(PATIENCE, woken.next()).await;
    assert_eq!(hint.expect("in time"), Some(Hint::Rebuilt));
    for text in &texts[1..] {
        let began = Instant::now();
        waits.push(waiter.watch(text).await.unwrap());
        let took = began.elapsed();
        assert!(took < SOON, "{text}: {took:?}");
    }
}

/// L1: who leaves there cannot be withdrawn. Nobody who begins to wait elsewhere waits for that, and whoever
/// leaves elsewhere is withdrawn, with its channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_a_primary_that_hangs_keeps_nobody_waiting_elsewhere() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let waiter = Process::born(servers.url(), "ns").await;
    let hung = place_of(&servers, "ns:{there}");
    let texts = elsewhere(&servers, hung);
    let _kept = waiter.watch(&texts[0]).await.unwrap();
    // The last two are withdrawn together, while the first one is.
    let leaving = [&texts[1], "there", &texts[2]];
    let leaving = join_all(leaving.map(|text| waiter.watch(text))).await;
    servers.nodes()[hung].pause().unwrap();
    drop(leaving);
    for text in &texts[3..] {
        let began = Instant::now();
        let hints = waiter.watch(text).await.unwrap();
        let took = began.elapsed();
        assert!(took < SOON, "{text}: {took:?}");
        drop(hints);
        // It is on its way when the next one comes.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sound = || (0..3).filter(|place| *place != hung);
    let channels = async || {
        let listened = sound().map(|place| {
            let node = &servers.nodes()[place];
            let listened: Vec<String> = node.query(&["PUBSUB", "SHARDCHANNELS"]).unwrap();
            listened.len()
        });
        listened.sum::<usize>() == 1
    };
    let left = until("the channels of all others are left", channels);
    // Before the subscription is opened anew, which listens to none of them.
    let left = tokio::time::timeout(Duration::from_secs(3), left).await;
    left.expect("in time");
}

/// L6: a primary that has forgotten the scripts, as after a restart, is told them while the client of the
/// cluster carries nothing.
#[tokio::test]
async fn forgotten_scripts_are_told_beside_a_primary_that_hangs() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let process = Process::born(servers.url(), "ns").await;
    let hung = (place_of(&servers, MOVED) + 1) % 3;
    let hung = Hung::new(servers, hung);
    let blocked = blocked(&process).await;
    for (place, node) in hung.servers.nodes().iter().enumerate() {
        if place != hung.place {
            node.command(&["SCRIPT", "FLUSH"]).unwrap();
        }
    }
    let acquiring = join_all(hung.elsewhere.iter().map(|text| process.acquire(text)));
    let acquired = tokio::time::timeout(SOON, acquiring).await;
    acquired.expect("in time");
    assert!(!blocked.is_finished(), "the client of the cluster went on");
    blocked.abort();
}

/// L5, L6: its locks are kept, and it grants what lies elsewhere.
#[tokio::test]
async fn a_locker_goes_on_beside_a_primary_that_hangs() {
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let store = Redis::from_url(servers.url()).unwrap().namespace("ns");
    let locker = Locker::builder(Arc::new(store)).start().await.unwrap();
    let process = locker.process_hash().unwrap();
    let hung = other_than_of(&servers, &format!("ns:process:{process}"));
    let kept = acquire(&locker, "moved").await;
    let hung = Hung::new(servers, hung);
    // It is sent on to another node, so the slots are read anew.
    let moved = locker.read_lock_data("moved");
    let moved = tokio::time::timeout(Duration::from_millis(100), moved).await;
    moved.expect_err("it waits for the one that hangs");
    for round in 0..3 {
        let grants = join_all(hung.elsewhere.iter().map(|text| acquire(&locker, text)));
        let granted = tokio::time::timeout(Duration::from_secs(8), grants).await;
        for guard in granted.unwrap_or_else(|_| panic!("nothing is granted in round {round}")) {
            // It may be confirmed later.
            drop(guard.release().await);
        }
        assert!(kept.is_valid(), "in round {round}");
    }
    hung.servers.nodes()[hung.place].resume().unwrap();
    kept.release().await.unwrap();
    locker.terminate(PATIENCE).await.unwrap();
}

/// L5: however many locks lie on it, those of the others are extended, also where a lock does not last
/// long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_locks_are_kept_beside_a_primary_that_hangs() {
    const LOCKS: usize = 2000;
    let servers = Cluster::start(&Setup::new(), 3, 0).unwrap();
    let store = Redis::from_url(servers.url()).unwrap().namespace("ns");
    let timing = scaled(Duration::from_secs(3));
    let locker = Locker::builder(Arc::new(store)).timing(timing);
    let locker = locker.start().await.unwrap();
    let process = locker.process_hash().unwrap();
    let hung = other_than_of(&servers, &format!("ns:process:{process}"));
    let texts: Vec<String> = (0..LOCKS).map(|number| format!("k{number}")).collect();
    let automatic = || AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let acquired = join_all(texts.iter().map(async |text| {
        let acquired = locker.acquire(text.as_str(), automatic()).await;
        acquired.unwrap().guard().unwrap()
    }));
    let (there, elsewhere): (Vec<_>, Vec<_>) = acquired.await.into_iter().partition(|guard| {
        let name = format!("ns:{{{}}}", guard.key());
        place_of(&servers, &name) == hung
    });
    servers.nodes()[hung].pause().unwrap();
    tokio::time::sleep(timing.lock_ttl + timing.extend_every).await;
    let lost = |guards: &[LockGuard]| guards.iter().filter(|it| !it.is_valid()).count();
    let (lost_there, lost_elsewhere) = (lost(&there), lost(&elsewhere));
    println!(
        "{lost_there} of {} lost there, {lost_elsewhere} of {} elsewhere",
        there.len(),
        elsewhere.len()
    );
    // It has hung for long enough: what lies there has not been extended.
    assert_eq!(lost_there, there.len());
    assert_eq!(lost_elsewhere, 0);
    servers.nodes()[hung].resume().unwrap();
}
