//! F24: what is under a key and is no record of this release.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::redis::site::Servers;
use crate::harness::event::Event;
use crate::harness::scene::Scene;
use crate::harness::times::micros;

/// F24.
pub const CORRUPT: &[Case] = &[Case::new(Expect::ANYBODY, corrupt)];

/// What is done to the hash of a lock: its name stands first among the words after the command.
const DAMAGES: &[(&str, &[&[&str]])] = &[
    ("no owner hash", &[&["HSET", "owner", "nonsense"]]),
    ("no number", &[&["HSET", "expires", "soon"]]),
    ("a newer format", &[&["HSET", "format", "99"]]),
    ("half a record", &[&["HDEL", "expires"]]),
    ("another type", &[&["DEL"], &["SET", "nonsense"]]),
];

fn corrupt(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t / 2);
    let large = "x".repeat(1 << 20);
    let large: &[(&str, &[&[&str]])] = &[("1 MiB", &[&["HSET", "owner", &large]])];
    for (what, damage) in DAMAGES.iter().chain(large) {
        let (other, one) = (scene.keep(1)?, scene.keep(0)?);
        let (at, index) = (micros(), scene.fleet.log.length());
        send(scene, damage)?;
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
        // An operator repairs it by removing it.
        send(scene, &[&["DEL"]])?;
        let repaired = micros();
        scene.did(what, at, None);
        match scene.taken(one, repaired, scene.times.t * 10) {
            Some(next) => scene.took("the repair to the next grant", repaired, next.at, None),
            None => scene.expect(false, format!("{what}: no grant after the repair")),
        }
        scene.let_go(other);
        scene.work(scene.times.t / 5);
    }
    let records = scene.fleet.log.records();
    let harmed = records.iter().any(|record| {
        matches!(
            &record.event,
            Event::Loss { key: 1, .. } | Event::Refused { key: 1, .. }
        )
    });
    scene.expect(!harmed, "the damage of one key harmed another");
    Ok(())
}

/// Sends commands about the lock of key 0.
fn send(scene: &mut Scene, commands: &[&[&str]]) -> Result<(), String> {
    let lock = Servers::lock(0);
    let node = Servers::of(scene)?.holder_of(0)?;
    for command in commands {
        let mut words = vec![command[0], &lock];
        words.extend(&command[1..]);
        node.command(&words).map_err(|error| error.to_string())?;
    }
    Ok(())
}
