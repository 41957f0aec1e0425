//! F23: wake-ups that nobody sent, and wake-ups that reach nobody.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::redis::site::{All, Servers};
use crate::harness::event::Event;
use crate::harness::scene::Scene;
use crate::harness::times::{as_micros, micros};
use crate::servers::redis::Node;
use std::time::Duration;

/// F23.
pub const WAKE_UPS: &[Case] = &[Case::new(Expect::HOLD, wake_ups)];

fn wake_ups(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t);
    let from = micros();
    let end = from + as_micros(scene.times.t * 3);
    let mut sent: u32 = 0;
    while micros() < end {
        sent += forge(scene)?;
        scene.work(Duration::from_millis(2));
    }
    scene.did("forged, duplicated, flooded", from, None);
    scene.measure("forged wake-ups", f64::from(sent), None, "");
    scene.expect(sent > 100, "hardly any wake-up could be forged");

    // Enrolments are forgotten and subscriptions cut, again and again: nobody is woken.
    let (from, mut dropped) = (micros(), 0);
    for _ in 0..15 {
        dropped += forget(scene)?;
        scene.work(scene.times.t / 10);
    }
    scene.did("enrolments forgotten, subscriptions cut", from, None);
    let records = scene.fleet.log.records();
    let granted = records
        .iter()
        .filter(|record| matches!(record.event, Event::Grant { .. }) && record.at >= from);
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let granted = granted.count() as f64;
    scene.measure("grants in 1.5 T without wake-ups", granted, None, "");
    scene.expect(
        granted > 0.0,
        "nobody was granted anything without wake-ups",
    );
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    scene.measure(
        "enrolments and subscriptions lost",
        dropped as f64,
        None,
        "",
    );
    scene.expect(dropped > 0, "there was nothing to forget");
    scene.work(scene.times.t);
    Ok(())
}

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
