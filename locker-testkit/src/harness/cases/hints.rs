//! F23: wake-ups that nobody sent, and wake-ups that reach nobody. How is a matter of each store.

use crate::harness::event::Event;
use crate::harness::scene::Scene;
use crate::harness::times::{as_micros, micros};
use std::time::Duration;

/// Sends hints that no release has sent to whoever waits, and answers how many.
pub(super) type Forge = fn(&mut Scene) -> Result<u32, String>;
/// Loses enrolments, and what hints come on; answers how many.
pub(super) type Forget = fn(&mut Scene) -> Result<u64, String>;

/// Hints are forged and doubled for a while; then nobody is told anything.
pub(super) fn wake_ups(scene: &mut Scene, forge: Forge, forget: Forget) -> Result<(), String> {
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
