//! F23 on Postgres: messages on the channel of the namespace, enrolments in a table.

use crate::harness::cases::{Case, Expect, hints};
use crate::harness::deployment::postgres::site::Servers;
use crate::harness::scene::Scene;

/// F23.
pub const WAKE_UPS: &[Case] = &[Case::new(Expect::HOLD, |scene| {
    hints::wake_ups(scene, forge, forget)
})];

/// Sends everybody messages about enrolments that are there, about others, and nonsense.
fn forge(scene: &mut Scene) -> Result<u32, String> {
    let (id, place, garbage) = (scene.rng.draw(), scene.rng.below(3), scene.rng.draw());
    let channel = channel();
    let mut admin = Servers::of(scene)?.admin()?;
    let mut sent = 0;
    for _ in 0..25 {
        let enrolled = admin
            .texts("SELECT id::text FROM locker.waiters")?
            .join(" ");
        let forged = format!("free {place} {enrolled} {id}");
        for message in [
            &forged,
            &forged,
            &format!("gone {id}"),
            &garbage.to_string(),
        ] {
            admin.run(&format!("SELECT pg_notify('{channel}', '{message}')::text"))?;
            sent += 1;
        }
    }
    Ok(sent)
}

/// Removes all enrolments, and ends every session on which somebody listens; answers how many.
fn forget(scene: &mut Scene) -> Result<u64, String> {
    let mut admin = Servers::of(scene)?.admin()?;
    let forgotten = "WITH gone AS (DELETE FROM locker.waiters RETURNING 1)
                     SELECT count(*)::text FROM gone";
    let forgotten = admin.texts(forgotten)?;
    // What they asked last tells these sessions from all others.
    let ended = admin.number(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND query ~ 'LISTEN|enrol\\(|withdraw\\('",
    )?;
    let forgotten: u64 = forgotten
        .first()
        .and_then(|one| one.parse().ok())
        .unwrap_or(0);
    Ok(forgotten + ended)
}

/// The name of the channel, which is a hash (FNV-1a) of the schema's.
fn channel() -> String {
    let hash = b"locker"
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("locker_{hash:016x}")
}
