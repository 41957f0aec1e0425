//! F18: slots move from node to node under load, stay half moved, are served by nobody, and a node is
//! gone.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::redis::site::{All, Servers};
use crate::harness::event::Event;
use crate::harness::scene::Scene;
use crate::harness::times::micros;
use crate::servers::redis::Cluster;
use std::io;
use std::time::Duration;

/// F18.
pub const SHARDS: &[Case] = &[
    Case::variant("slots moved", Expect::HOLD.with_errors(), moved),
    Case::variant("slots half moved", Expect::HOLD.with_errors(), half_moved),
    Case::variant("CLUSTERDOWN", Expect::HOLD.with_errors(), unserved),
    Case::variant("node killed", Expect::ANYBODY.grants(100), killed),
];

/// How long a promotion may take, and the first grant after it.
const PROMOTION: Duration = Duration::from_secs(15);

/// The masters at the start.
const MASTERS: usize = 3;

/// The slots of all keys, of locks and of processes, go round and round.
fn moved(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let mut moves: u32 = 0;
    for round in 0..6 {
        let kept = scene.keep(round % 2)?;
        let from = micros();
        for name in names(scene)? {
            let cluster = cluster(scene)?;
            let slot = cluster.slot_of(&name).map_err(text)?;
            let to = (cluster.node_of(slot).map_err(text)? + 1) % MASTERS;
            cluster.move_slot(slot, to).map_err(text)?;
            moves += 1;
        }
        scene.did("slots moved", from, None);
        scene.work(scene.times.t / 5);
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    scene.measure("slots moved", f64::from(moves), None, "");
    Ok(())
}

/// A slot stays between two nodes: its keys are on the new one, and clients are sent there each time
/// (ASK).
fn half_moved(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        let lock = Servers::lock(kept.key);
        let at = micros();
        let cluster = cluster(scene)?;
        let slot = cluster.slot_of(&lock).map_err(text)?;
        let from = cluster.node_of(slot).map_err(text)?;
        let to = (from + 1) % MASTERS;
        cluster.begin_move(slot, to).map_err(text)?;
        cluster.move_keys(slot, from, to).map_err(text)?;
        let asked = cluster.nodes()[from].command(&["HGET", &lock, "owner"]);
        let asks = asked.is_err_and(|error| error.to_string().starts_with("Ask"));
        scene.expect(asks, "the old node did not answer ASK");
        // Longer than T and than an extension: both are sent on.
        scene.work(scene.times.t * 3 / 2);
        let let_go = micros();
        scene.let_go(kept);
        // A lock outlives extensions that fail; a release and the next claim have to be sent on.
        match scene.next_grant(kept.key, let_go, scene.times.t * 2) {
            Some(next) => {
                let what = "a release in a half moved slot to the next grant";
                scene.took(what, let_go, next.at, None);
            }
            None => scene.expect(false, "no grant while the slot was half moved"),
        }
        scene.work(scene.times.t / 2);
        let cluster = self::cluster(scene)?;
        cluster.move_keys(slot, from, to).map_err(text)?;
        cluster.end_move(slot, to).map_err(text)?;
        scene.did("a slot half moved", at, None);
        scene.work(scene.times.t / 2);
    }
    Ok(())
}

/// Nobody serves the slot of a lock for a moment; who works on the other one sees nothing of it.
fn unserved(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..3 {
        let kept = scene.keep(1)?;
        let at = micros();
        let cluster = cluster(scene)?;
        let slot = cluster.slot_of(&Servers::lock(0)).map_err(text)?;
        let place = cluster.node_of(slot).map_err(text)?;
        let node = &cluster.nodes()[place];
        let slot = slot.to_string();
        node.command(&["CLUSTER", "DELSLOTS", &slot])
            .map_err(text)?;
        scene.work(scene.times.t * 2 / 5);
        let node = &Servers::of(scene)?.nodes()[place];
        node.command(&["CLUSTER", "ADDSLOTS", &slot])
            .map_err(text)?;
        let back = micros();
        scene.did("a slot served by nobody", at, None);
        match scene.next_grant(0, back, scene.times.t * 5) {
            Some(next) => scene.took("the slot's return to the next grant", back, next.at, None),
            None => scene.expect(false, "grants did not resume"),
        }
        scene.let_go(kept);
        scene.work(scene.times.t);
    }
    Ok(())
}

/// A master is gone. Its replica, which has everything, takes its place after a while; who has nothing
/// there loses nothing.
fn killed(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t);
    let both = [scene.keep(0)?, scene.keep(1)?];
    let lock = Servers::lock(0);
    let cluster_of = cluster(scene)?;
    let slot = cluster_of.slot_of(&lock).map_err(text)?;
    let old = cluster_of.node_of(slot).map_err(text)?;
    // Who keeps the other lock, and has its own process record elsewhere, is not concerned.
    let elsewhere = |cluster: &Cluster, name: &str| -> io::Result<bool> {
        Ok(cluster.node_of(cluster.slot_of(name)?)? != old)
    };
    let process = process_of(cluster_of, both[1].key)?;
    let unconcerned = elsewhere(cluster_of, &Servers::lock(1)).map_err(text)?
        && elsewhere(cluster_of, &process).map_err(text)?;
    let at = micros();
    Servers::of(scene)?.nodes_mut()[old].kill().map_err(text)?;
    let new = cluster(scene)?.promoted_after(slot, old).map_err(text)?;
    let over = micros();
    scene.did("a node killed", at, None);
    scene.took("the promotion", at, over, None);
    scene.note(format!("node {new} is the master in the place of {old}"));
    match scene.next_grant(0, over, PROMOTION) {
        Some(next) => {
            scene.took("the promotion to the next grant", over, next.at, None);
            scene.expect(next.token > both[0].token, "the token went back");
        }
        None => {
            // Whoever kept it may still keep it.
            let lost = scene.loss(both[0], Duration::from_millis(1));
            scene.expect(lost.is_none(), "grants did not resume");
        }
    }
    let records = scene.fleet.log.records();
    if unconcerned {
        let lost = records.iter().any(|record| {
            matches!(record.event, Event::Loss { token, .. } if token == both[1].token)
                && record.pid == both[1].pid
        });
        scene.expect(!lost, "a lock was lost that has nothing on the killed node");
    }
    scene.measure(
        "owners with nothing on the killed node",
        f64::from(u8::from(unconcerned)),
        None,
        "",
    );
    Servers::of(scene)?.nodes_mut()[old]
        .start_again()
        .map_err(text)?;
    for kept in both {
        scene.let_go(kept);
    }
    scene.work(scene.times.t * 3);
    Ok(())
}

fn cluster(scene: &mut Scene) -> Result<&Cluster, String> {
    match &Servers::of(scene)?.all {
        All::Cluster(cluster) => Ok(cluster),
        All::Alone(_) | All::Sentinel(_) => Err("this case is for a cluster".to_owned()),
    }
}

/// The names of all keys there are now, one for each slot.
fn names(scene: &mut Scene) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for master in Servers::of(scene)?.masters() {
        let pattern = format!("{}*", Servers::processes());
        let found: Vec<String> = master.query(&["KEYS", &pattern]).map_err(text)?;
        names.extend(found);
    }
    names.extend([Servers::lock(0), Servers::lock(1)]);
    Ok(names)
}

/// The name of the process key of whoever holds this lock.
fn process_of(cluster: &Cluster, key: usize) -> Result<String, String> {
    let lock = Servers::lock(key);
    let place = cluster
        .slot_of(&lock)
        .and_then(|slot| cluster.node_of(slot))
        .map_err(text)?;
    let owner = cluster.nodes()[place]
        .command(&["HGET", &lock, "owner"])
        .map_err(text)?;
    // `KEY@HOST/PID.DIGITS.SEQ`, and `HOST/PID.DIGITS` is the process.
    let process = owner
        .split_once('@')
        .and_then(|(_, process)| process.rsplit_once('.'))
        .ok_or_else(|| format!("no owner hash: {owner:?}"))?;
    Ok(format!("{}{}", Servers::processes(), process.0))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: io::Error) -> String {
    error.to_string()
}
