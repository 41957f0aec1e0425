//! F22 on Redis.

use crate::harness::cases::{Case, clock};
use crate::harness::deployment::redis::site::Servers;
use crate::harness::scene::Scene;
use crate::servers::clock::SteppedClock;

/// F22.
pub const STEPPED: &[Case] = &[
    Case::variant("+1 h", clock::FORWARD, |scene| {
        clock::forward(scene, with_a_clock)
    }),
    Case::variant("-1 h", clock::BACK, |scene| {
        clock::back(scene, with_a_clock)
    }),
];

fn with_a_clock(scene: &mut Scene) -> Result<SteppedClock, String> {
    let clock = SteppedClock::new(&scene.folder).map_err(|missing| missing.to_string())?;
    let environment = clock.environment();
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let node = &mut Servers::of(scene)?.nodes_mut()[0];
    node.environment(&environment)
        .and_then(|()| node.start_again())
        .map_err(|error| error.to_string())?;
    scene.watch_servers();
    clock::proved(clock, || {
        let node = &Servers::of(scene)?.nodes()[0];
        let said: Vec<String> = node.query(&["TIME"]).map_err(|error| error.to_string())?;
        Ok(said.first().and_then(|secs| secs.parse().ok()).unwrap_or(0))
    })
}
