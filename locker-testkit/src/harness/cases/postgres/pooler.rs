//! F20: every request may reach another session, and sessions are few.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::postgres::site::Servers;
use crate::harness::scene::Scene;
use crate::harness::times::micros;

/// F20.
pub const POOLED: &[Case] = &[
    Case::variant("sessions change hands", Expect::HOLD, sessions_change_hands),
    Case::variant(
        "sessions are ended",
        Expect::HOLD.with_errors(),
        sessions_are_ended,
    ),
];

/// There are more connections than sessions, so each request may reach a session that somebody
/// else's request has just left.
fn sessions_change_hands(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let both = [scene.keep(0)?, scene.keep(1)?];
    scene.work(scene.times.t * 2);
    for kept in both {
        scene.let_go(kept);
    }
    scene.work(scene.times.t * 4);
    let mut admin = Servers::of(scene)?.admin()?;
    let sessions = admin.number(
        "SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    )?;
    let connections: u64 = (0..scene.fleet.places())
        .filter_map(|place| Some(scene.site.network(place)?.counts().connections))
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "dozens")]
    for (what, count) in [
        ("sessions of the server", sessions),
        ("connections of workers", connections),
    ] {
        scene.measure(what, count as f64, None, "");
    }
    scene.expect(
        sessions < connections,
        format!("{connections} connections shared {sessions} sessions"),
    );
    Ok(())
}

/// The pooler gets new ones, and whoever was in the middle of something asks again.
fn sessions_are_ended(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let mut ended = 0;
    for round in 0..10 {
        let kept = scene.keep(round % 2)?;
        let from = micros();
        let mut admin = Servers::of(scene)?.admin()?;
        ended += admin.number(super::sessions::END_ALL)?;
        scene.did("sessions ended", from, None);
        scene.work(scene.times.t / 3);
        scene.let_go(kept);
        scene.work(scene.times.t / 5);
    }
    #[expect(clippy::cast_precision_loss, reason = "dozens")]
    scene.measure("sessions ended", ended as f64, None, "");
    scene.expect(ended > 0, "there was no session to end");
    Ok(())
}
