//! F16: a replica is promoted that does not have the last writes.
//!
//! Redis acknowledges a write before its replicas have it, so this breaks A2: a grant may be
//! forgotten. Who held it finds out at the next report or check; and tokens grow all the same, because
//! they are never below the clock.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::redis::site::{All, Servers};
use crate::harness::scene::Scene;
use crate::harness::times::micros;
use std::io;
use std::time::Duration;

/// F16. A promotion takes seconds, in which nobody is granted anything.
pub const PROMOTED: &[Case] = &[Case::new(
    Expect::ANYBODY.broken_ground().grants(100),
    promoted,
)];

/// How long the replica misses writes before its master dies.
const MISSED: Duration = Duration::from_millis(700);
/// How long a promotion may take, and the first grant after it.
const PROMOTION: Duration = Duration::from_secs(15);

fn promoted(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t);
    let old = cut_off_replicas(scene)?;
    // Grants that the replica never hears of, and one that is held when its master dies.
    scene.work(MISSED);
    let kept = scene.keep(0)?;
    let at = micros();
    let servers = Servers::of(scene)?;
    servers.nodes_mut()[old].kill().map_err(text)?;
    scene.did("the master is killed", at, None);
    let servers = Servers::of(scene)?;
    let promoted = match &servers.all {
        All::Sentinel(sentinel) => sentinel.promoted_after(old),
        All::Cluster(cluster) => cluster
            .slot_of(&Servers::lock(0))
            .and_then(|slot| cluster.promoted_after(slot, old)),
        All::Alone(_) => Err(io::Error::other("there is no replica")),
    };
    let new = promoted.map_err(text)?;
    let over = micros();
    scene.took("the promotion", at, over, None);
    let servers = Servers::of(scene)?;
    let command = ["CONFIG", "SET", "masterauth", ""];
    servers.nodes()[new].command(&command).map_err(text)?;
    let next = scene.next_grant(0, over, PROMOTION);
    match next {
        Some(next) => {
            scene.took("the promotion to the next grant", over, next.at, None);
            scene.expect(next.token > kept.token, "the token went back");
        }
        None => scene.expect(false, "grants did not resume"),
    }
    // Whoever held it is told, one way or the other: by its next report, or its next look.
    let told = scene.loss(kept, scene.times.t).is_some();
    scene.expect(told, "the owner was not told of its loss");
    // The old master comes back as a replica, and brings nothing back.
    let servers = Servers::of(scene)?;
    servers.nodes_mut()[old].start_again().map_err(text)?;
    scene.work(scene.times.t * 3);
    Ok(())
}

/// Cuts the replicas of the master of key 0 off; answers which one that is.
fn cut_off_replicas(scene: &mut Scene) -> Result<usize, String> {
    let servers = Servers::of(scene)?;
    match &servers.all {
        All::Sentinel(sentinel) => {
            let master = sentinel.master().map_err(text)?;
            sentinel.cut_off(1 - master).map_err(text)?;
            Ok(master)
        }
        All::Cluster(cluster) => {
            let slot = cluster.slot_of(&Servers::lock(0)).map_err(text)?;
            let master = cluster.node_of(slot).map_err(text)?;
            cluster.cut_off(cluster.replica_of(master)).map_err(text)?;
            Ok(master)
        }
        All::Alone(_) => Err("there is no replica".to_owned()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: io::Error) -> String {
    error.to_string()
}
