//! F24: what is in the place of a record and is no record of this release.

use crate::harness::event::Event;
use crate::harness::scene::{Exceeded, Scene};
use crate::harness::times::micros;
use std::fmt::Debug;

/// Damages the record of key 0 in each of these ways, and repairs it: it is an error of its own key
/// and of no other.
pub(super) fn damaged<D: Debug>(
    scene: &mut Scene,
    damages: &[(&str, D)],
    damage: impl Fn(&mut Scene, &D) -> Result<(), String>,
    repair: impl Fn(&mut Scene) -> Result<(), String>,
) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t / 2);
    for (what, done) in damages {
        let (other, one) = (scene.keep(1)?, scene.keep(0)?);
        let (at, index) = (micros(), scene.fleet.log.length());
        damage(scene, done)?;
        let refused = scene
            .fleet
            .log
            .wait_for(index, scene.times.t * 3, |record| match &record.event {
                Event::Refused { key: 0, kind } if record.pid != one.pid => Some(kind.clone()),
                _ => None,
            });
        let corrupt = refused.as_deref() == Some("Corrupt");
        scene.expect(corrupt, format!("{what}: refused with {refused:?}"));
        scene.work(scene.times.t / 2);
        scene.let_go(one);
        scene.work(scene.times.t / 5);
        repair(scene)?;
        let repaired = micros();
        scene.did(what, at, None);
        match scene.taken(one, repaired, scene.times.t * 10) {
            Some(next) => scene.took("the repair to the next grant", repaired, next.at, None),
            None => scene.expect(false, format!("{what}: no grant after the repair")),
        }
        scene.let_go(other);
        scene.work(scene.times.t / 5);
    }
    for record in scene.fleet.log.records() {
        let harm = match &record.event {
            Event::Loss { key: 1, reason, .. } => format!("it was lost: {reason}"),
            Event::Refused { key: 1, kind } => format!("refused with {kind}"),
            _ => continue,
        };
        let is_damaged = harm.ends_with("Corrupt");
        let harm = format!("the damage of one key harmed another: {harm}");
        if is_damaged {
            scene.expect(false, harm);
        } else {
            // A machine that stands still does the same.
            let harm = Exceeded::loss(harm, record.at, scene.times);
            scene.findings.exceeded.push(harm);
        }
    }
    Ok(())
}
