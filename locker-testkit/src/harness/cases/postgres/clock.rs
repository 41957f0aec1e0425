//! F22 on Postgres.

use crate::harness::cases::{Case, clock};
use crate::harness::deployment::postgres::site::Servers;
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
    let server = Servers::of(scene)?.first();
    // In the server's own folder: it is another user, who may read nothing else here.
    let clock = SteppedClock::new(server.folder()).map_err(|missing| missing.to_string())?;
    let environment = clock.environment();
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    server
        .environment(&environment)
        .and_then(|()| server.start_again())
        .map_err(|error| error.to_string())?;
    scene.watch_servers();
    clock::proved(clock, || {
        let mut admin = Servers::of(scene)?.admin()?;
        let said = admin.number("extract(epoch FROM clock_timestamp())::bigint")?;
        i64::try_from(said).map_err(|error| error.to_string())
    })
}
