//! F30: somebody else's transaction has a row, or a commit takes its time, for longer than T. Nobody
//! who lives is taken over, and whoever works on other keys sees nothing of it.

use super::sessions::process_of;
use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::postgres::site::Servers;
use crate::harness::event::Event;
use crate::harness::scene::{Kept, Scene};
use crate::harness::times::{as_micros, micros};
use crate::harness::worker::name;
use std::time::Duration;

/// F30.
pub const HELD: &[Case] = &[
    Case::variant("of a lock", Expect::HOLD.with_errors(), row_of_a_lock),
    Case::variant(
        "of a process",
        Expect::STRUCK.with_errors(),
        row_of_a_process,
    ),
    Case::variant(
        "commit delayed",
        Expect::STRUCK.with_errors(),
        commit_delayed,
    ),
];

/// A colleague has the row of a lock that is held. Its owner reports as ever, and cannot extend.
fn row_of_a_lock(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..3 {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        let row = format!(
            "SELECT key FROM locker.locks WHERE key = '{}' FOR UPDATE",
            name(kept.key)
        );
        let (from, to) = hold(scene, &row, "the row of a lock is locked")?;
        scene.still_holds(kept, "a lock was lost because of its row");
        others_go_on(scene, kept, from, to);
        // What was asked meanwhile has come to an end as well.
        scene.work(scene.times.t / 2);
        let taken = scene.taken(kept, from, Duration::ZERO);
        scene.expect(taken.is_none(), "a living owner was taken over");
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    Ok(())
}

/// A colleague has the row of a process, which cannot renew itself and stops. Nobody finds it dead
/// while somebody has its row.
fn row_of_a_process(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..3 {
        let kept = scene.keep(round % 2)?;
        scene.strikes(kept.place);
        scene.work(scene.times.t / 5);
        let process = process_of(&mut Servers::of(scene)?.admin()?, kept)?;
        let row =
            format!("SELECT process FROM locker.processes WHERE process = '{process}' FOR UPDATE");
        let (from, to) = hold(scene, &row, "the row of a process is locked")?;
        stopped_first(scene, kept, from);
        others_go_on(scene, kept, from, to);
        scene.let_go(kept);
        scene.work(scene.times.t * 3 / 2);
    }
    Ok(())
}

/// The commits of one worker wait for a standby that is not there: its renewals have been executed,
/// everybody else waits for their rows, and it is told nothing.
fn commit_delayed(scene: &mut Scene) -> Result<(), String> {
    let mut admin = Servers::of(scene)?.admin()?;
    scene.start_all(true)?;
    for round in 0..3 {
        let place = scene.any_place();
        let role = Servers::of(scene)?.role(place);
        // A setting of a role counts from its next session on.
        admin.run(&format!("ALTER ROLE {role} SET synchronous_commit = 'on'"))?;
        admin.number(&format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'"
        ))?;
        scene.work(scene.times.t / 2);
        let kept = scene.keep_at(place, round % 2)?;
        scene.strikes(place);
        scene.work(scene.times.t / 5);
        let from = micros();
        admin.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")?;
        admin.run("SELECT pg_reload_conf()::text")?;
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let (mut waited, mut waiting) = (0, micros() + as_micros(scene.times.t * 6 / 5));
        let end = waiting;
        while micros() < end {
            waiting = micros();
            waited = waited.max(admin.number(waits)?);
            scene.work(Duration::from_millis(20));
        }
        scene.expect(waited > 0, "no commit waited");
        admin.run("ALTER SYSTEM SET synchronous_standby_names = ''")?;
        admin.run("SELECT pg_reload_conf()::text")?;
        scene.did("commits are delayed", from, Some(place));
        stopped_first(scene, kept, from);
        others_go_on(scene, kept, from, waiting);
        admin.run(&format!("ALTER ROLE {role} RESET synchronous_commit"))?;
        scene.let_go(kept);
        scene.work(scene.times.t * 3 / 2);
    }
    Ok(())
}

/// A transaction that locks this row, for 1.2 T. Answers from when to when.
fn hold(scene: &mut Scene, row: &str, what: &str) -> Result<(u64, u64), String> {
    let mut colleague = Servers::of(scene)?.admin()?;
    let from = micros();
    colleague.run(&format!("BEGIN; {row}"))?;
    scene.work(scene.times.t * 6 / 5);
    let to = micros();
    colleague.run("ROLLBACK")?;
    scene.did(what, from, None);
    Ok((from, to))
}

/// The owner is told of its loss, and the next one comes afterwards.
fn stopped_first(scene: &mut Scene, kept: Kept, from: u64) {
    let told = scene.loss(kept, scene.times.t);
    match told {
        Some(told) => scene.took("the fault to STOP", from, told, Some(scene.times.t)),
        None => scene.expect(false, "the owner was not told of its loss"),
    }
    match scene.taken(kept, from, scene.times.t * 5) {
        Some(next) => {
            scene.took("the fault to the next owner", from, next.at, None);
            let stopped = told.is_some_and(|told| told < next.at);
            scene.expect(stopped, "the next owner came before the loss was told");
        }
        None => scene.expect(false, "nobody took over"),
    }
}

/// The other key was granted all the time.
fn others_go_on(scene: &mut Scene, kept: Kept, from: u64, to: u64) {
    let mut granted: Vec<u64> = scene
        .fleet
        .log
        .records()
        .iter()
        .filter(|record| (from..=to).contains(&record.at))
        .filter_map(|record| match record.event {
            Event::Grant { key, .. } if key != kept.key => Some(record.at),
            _ => None,
        })
        .collect();
    granted.extend([from, to]);
    granted.sort_unstable();
    let longest = granted.windows(2).max_by_key(|pair| pair[1] - pair[0]);
    if let Some([before, after]) = longest {
        // Its owner may have been the one that was struck, and its death takes as long as a death.
        let limit = scene.times.taken_over();
        scene.took(
            "the longest wait for the other key",
            *before,
            *after,
            Some(limit),
        );
    }
}
