//! F24 on Redis.

use crate::harness::cases::{Case, Expect, records};
use crate::harness::deployment::redis::site::Servers;
use crate::harness::scene::Scene;

/// F24.
pub const CORRUPT: &[Case] = &[Case::new(Expect::ANYBODY, corrupt)];

type Command<'c> = &'c [&'c str];

/// What is done to the hash of a lock, in one step: whatever came between two would be no damage of a
/// record but a lock that is free. The name stands first among the words after the command.
const DAMAGES: &[(&str, Command<'_>)] = &[
    ("no owner hash", &["HSET", "owner", "nonsense"]),
    ("no number", &["HSET", "expires", "soon"]),
    ("a newer format", &["HSET", "format", "99"]),
    ("half a record", &["HDEL", "expires"]),
    ("another type", &["SET", "nonsense"]),
];

fn corrupt(scene: &mut Scene) -> Result<(), String> {
    let large = "x".repeat(1 << 20);
    let large: Command<'_> = &["HSET", "owner", &large];
    let mut damages = DAMAGES.to_vec();
    damages.push(("1 MiB", large));
    // An operator repairs it by removing it.
    records::damaged(
        scene,
        &damages,
        |scene, command| send(scene, command),
        |scene| send(scene, &["DEL"]),
    )
}

/// Sends a command about the lock of key 0.
fn send(scene: &mut Scene, command: Command<'_>) -> Result<(), String> {
    let lock = Servers::lock(0);
    let node = Servers::of(scene)?.holder_of(0)?;
    let mut words = vec![command[0], &lock];
    words.extend(&command[1..]);
    let sent = node.command(&words);
    sent.map(drop).map_err(|error| error.to_string())
}
