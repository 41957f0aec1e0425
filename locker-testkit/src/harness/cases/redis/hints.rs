//! F23 on Redis: messages on channels, enrolments in the hash of a lock.

use crate::harness::cases::{Case, Expect, hints};
use crate::harness::deployment::redis::site::{All, Servers};
use crate::harness::scene::Scene;
use crate::servers::redis::Node;

/// F23.
pub const WAKE_UPS: &[Case] = &[Case::new(Expect::HOLD, |scene| {
    hints::wake_ups(scene, forge, forget)
})];

/// Sends hints that no release has sent to every mailbox there is; answers how many.
fn forge(scene: &mut Scene) -> Result<u32, String> {
    let numbers: Vec<u64> = (0..4).map(|_| scene.rng.below(64)).collect();
    let garbage = scene.rng.draw();
    let servers = Servers::of(scene)?;
    let is_cluster = matches!(servers.all, All::Cluster(_));
    let (list, publish) = if is_cluster {
        ("SHARDCHANNELS", "SPUBLISH")
    } else {
        ("CHANNELS", "PUBLISH")
    };
    let mut sent = 0;
    for node in servers.masters() {
        let channels: Vec<String> = node.query(&["PUBSUB", list]).map_err(text)?;
        for channel in channels {
            let [id, enrolment, place, key] = numbers[..] else {
                continue;
            };
            let lock = Servers::lock(usize::from(key % 2 == 0));
            let forged = format!("{id} {enrolment} {} {lock}", place % 3);
            for text_of in [
                &forged,
                &forged,
                &format!("{id} {enrolment} gone {lock}"),
                &garbage.to_string(),
            ] {
                node.command(&[publish, &channel, text_of]).map_err(text)?;
                sent += 1;
            }
        }
    }
    Ok(sent)
}

/// Removes the enrolments of both locks and every subscription; answers how many.
fn forget(scene: &mut Scene) -> Result<u64, String> {
    let servers = Servers::of(scene)?;
    let mut lost = 0;
    for key in 0..2 {
        let lock = Servers::lock(key);
        let node = servers.holder_of(key)?;
        let fields: Vec<String> = node.query(&["HKEYS", &lock]).map_err(text)?;
        for field in fields.iter().filter(|field| field.starts_with("w:")) {
            lost += number(node, &["HDEL", &lock, field])?;
        }
    }
    for node in servers.masters() {
        lost += number(node, &["CLIENT", "KILL", "TYPE", "pubsub"])?;
    }
    Ok(lost)
}

fn number(node: &Node, command: &[&str]) -> Result<u64, String> {
    let said = node.command(command).map_err(text)?;
    said.parse().map_err(|_| format!("{command:?}: {said}"))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: std::io::Error) -> String {
    error.to_string()
}
