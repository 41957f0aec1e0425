//! F16: a standby is promoted that does not have the last commits.
//!
//! An asynchronous standby is behind its primary, so this breaks A2: a grant may be forgotten. Who
//! held it finds out at the next report or check; and tokens grow all the same, because they are never
//! below the clock. A standby that the primary waits for has every grant, and breaks nothing.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::postgres::site::Servers;
use crate::harness::scene::Scene;
use crate::harness::times::micros;
use std::io;
use std::time::Duration;

/// F16. A promotion takes a while, in which nobody is granted anything.
pub const PROMOTED: &[Case] = &[
    Case::variant(
        "asynchronous",
        Expect::ANYBODY.broken_ground().grants(100),
        asynchronous,
    ),
    Case::variant("synchronous", Expect::ANYBODY.grants(100), synchronous),
];

/// How long the standby misses commits before its primary dies.
const MISSED: Duration = Duration::from_millis(700);

fn asynchronous(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t);
    Servers::of(scene)?
        .standby()?
        .stop_following()
        .map_err(text)?;
    // Grants that the standby never hears of, and one that is held when its primary dies.
    scene.work(MISSED);
    failover(scene, true)
}

/// The primary answers when the standby has it.
fn synchronous(scene: &mut Scene) -> Result<(), String> {
    let servers = Servers::of(scene)?;
    let mut admin = servers.admin()?;
    admin.run("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
    admin.run("ALTER SYSTEM SET synchronous_commit = 'on'")?;
    admin.run("SELECT pg_reload_conf()::text")?;
    drop(admin);
    scene.start_all(true)?;
    scene.work(scene.times.t * 2);
    failover(scene, false)
}

fn failover(scene: &mut Scene, forgotten: bool) -> Result<(), String> {
    let kept = scene.keep(0)?;
    let at = micros();
    Servers::of(scene)?.first().kill().map_err(text)?;
    scene.did("the primary is killed", at, None);
    if !forgotten {
        // Nobody waits for a standby of the new primary.
        let sql = "ALTER SYSTEM SET synchronous_standby_names = ''";
        Servers::of(scene)?.standby()?.sql(sql).map_err(text)?;
        let sql = "SELECT pg_reload_conf()";
        Servers::of(scene)?.standby()?.sql(sql).map_err(text)?;
    }
    Servers::of(scene)?.promote().map_err(text)?;
    let over = micros();
    scene.took("the promotion", at, over, None);
    let known = format!(
        "SELECT count(*) FROM locker.locks WHERE token >= {}",
        kept.token
    );
    let known = Servers::of(scene)?.admin()?.number(&known)?;
    if forgotten {
        scene.expect(known == 0, "the standby had missed nothing");
    }
    match scene.next_grant(0, over, scene.times.t * 10) {
        Some(next) => {
            scene.took("the promotion to the next grant", over, next.at, None);
            scene.expect(next.token > kept.token, "the token went back");
            let told = scene.loss(kept, scene.times.t).is_some();
            scene.expect(told, "the owner was not told of its loss");
        }
        None => {
            // Where nothing was forgotten and it went quickly, its owner still has it.
            let lost = scene.loss(kept, Duration::ZERO).is_some();
            scene.expect(!forgotten && !lost, "grants did not resume");
        }
    }
    scene.let_go(kept);
    scene.work(scene.times.t * 3);
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: io::Error) -> String {
    error.to_string()
}
