//! F23 on etcd. A hint is the deletion of the lock's own record, which nobody can forge who writes no
//! records (A5). What can be forged is the line of those who wait: with strangers in it, everybody
//! finds himself further back than he is; without anybody in it, nobody has a place.

use crate::harness::cases::{Case, Expect, hints};
use crate::harness::deployment::etcd::admin::Admin;
use crate::harness::deployment::etcd::site::Members;
use crate::harness::scene::Scene;

/// F23.
pub const WAKE_UPS: &[Case] = &[Case::new(Expect::HOLD.with_errors(), |scene| {
    hints::wake_ups(scene, forge, forget)
})];

/// Strangers come to both lines, and go.
fn forge(scene: &mut Scene) -> Result<u32, String> {
    const STRANGERS: u32 = 4;
    let mut admin = Members::of(scene)?.admin()?;
    let mut sent = 0;
    for key in 0..2 {
        for stranger in 0..STRANGERS {
            let name = format!("{}stranger/{stranger}!", Admin::waiters(key));
            admin.put(&name, "", false)?;
            sent += 1;
        }
    }
    scene.work(scene.times.t / 50);
    for key in 0..2 {
        admin.delete(&format!("{}stranger/", Admin::waiters(key)))?;
    }
    Ok(sent)
}

/// Removes both lines, and cuts every connection with its watches; answers how many.
fn forget(scene: &mut Scene) -> Result<u64, String> {
    let mut admin = Members::of(scene)?.admin()?;
    let mut lost = 0;
    for key in 0..2 {
        lost += admin.delete(&Admin::waiters(key))?;
    }
    for place in 0..scene.fleet.places() {
        scene.network(place)?.reset();
        lost += 1;
    }
    Ok(lost)
}
