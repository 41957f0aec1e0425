//! F07 and F08 on Redis with packets that are really lost: every worker lives in a network namespace,
//! and its kernel repeats what nobody acknowledges. Whoever runs it must be root.

use crate::harness::cases::troubles::{Blow, strike};
use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::redis::site::Servers;
use crate::harness::namespace::{Lost, Namespace};
use crate::harness::scene::Scene;

/// F07.
pub const CUT_OFF: Case = Case::variant("by namespaces", Expect::STRUCK.with_errors(), |scene| {
    packets_lost(scene, Lost::Everything, "packets lost")
})
.only_in_full();
/// F08.
pub const REPLIES_LOST: Case =
    Case::variant("by namespaces", Expect::STRUCK.with_errors(), |scene| {
        packets_lost(scene, Lost::Replies, "packets to the worker lost")
    })
    .only_in_full();

fn packets_lost(scene: &mut Scene, lost: Lost, what: &str) -> Result<(), String> {
    on_machines_of_their_own(scene)?;
    scene.start_all(true)?;
    for round in 0..scene.repetitions(2) {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        // Only its own packets keep the record of a process fresh; but what was sent before may
        // arrive once more, and does no harm.
        strike(
            scene,
            kept,
            Blow::Wire(lost),
            what,
            lost == Lost::Everything,
        )?;
    }
    Ok(())
}

/// Gives every worker a namespace, and makes the server listen on their wires.
fn on_machines_of_their_own(scene: &mut Scene) -> Result<(), String> {
    let mut addresses = vec!["127.0.0.1".to_owned()];
    for place in 0..scene.fleet.places() {
        let namespace = Namespace::new()?;
        let port = Servers::of(scene)?.nodes()[0].port();
        let url = format!("redis://{}:{port}", namespace.host());
        addresses.push(namespace.host().to_string());
        scene.fleet.moves(place, url, namespace.command());
        scene.namespaces.push(namespace);
    }
    let node = &Servers::of(scene)?.nodes()[0];
    for setting in [("protected-mode", "no"), ("bind", &addresses.join(" "))] {
        node.command(&["CONFIG", "SET", setting.0, setting.1])
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}
