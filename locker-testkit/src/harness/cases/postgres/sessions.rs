//! F19: sessions are ended, and requests refused, in all the ways in which a server does that to
//! those who did nothing wrong. Each case looks into the server's log: a code that nobody was ever
//! answered shows nothing.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::postgres::admin::Admin;
use crate::harness::deployment::postgres::site::Servers;
use crate::harness::event::Event;
use crate::harness::scene::{Kept, Scene};
use crate::harness::times::{as_micros, micros};
use crate::harness::worker::name;
use std::io;
use std::time::Duration;

/// F19.
pub const STATES: &[Case] = &[
    Case::variant("57P01 in a loop", Expect::HOLD.with_errors(), ended),
    Case::variant("57014, 55P03", Expect::HOLD.with_errors(), cancelled),
    Case::variant("40P01", Expect::STRUCK.with_errors(), deadlocked),
    Case::variant("40001", Expect::HOLD.with_errors(), conflicting),
    Case::variant("53300", Expect::HOLD.with_errors(), exhausted),
    Case::variant("57P03", Expect::HOLD.with_errors(), doors_closed),
];

/// F19, as far as a pooler lets it through.
pub const THROUGH_A_POOLER: &[Case] = &[
    Case::variant("57014, 55P03", Expect::HOLD.with_errors(), cancelled),
    Case::variant("40001", Expect::HOLD.with_errors(), conflicting),
];

/// Ends every session but those of the harness; counts them.
pub(super) const END_ALL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
     WHERE backend_type = 'client backend' AND application_name <> 'harness'";

/// What a locker may say to its users about such a server.
const SAID: [&str; 4] = ["Unavailable", "Timeout", "Busy", "TooLate"];

fn ended(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let both = [scene.keep(0)?, scene.keep(1)?];
    let t = as_micros(scene.times.t);
    let (from, end) = (micros(), micros() + t * 5);
    let (mut rounds, mut ended) = (0_u32, 0);
    let mut admin = Servers::of(scene)?.admin()?;
    while micros() < end {
        ended += admin.number(END_ALL)?;
        rounds += 1;
        if rounds == 6 {
            // After a while the keys are worked on again.
            for kept in both {
                scene.let_go(kept);
            }
        }
        let pause = t / 10 + scene.rng.below(t * 2 / 5);
        scene.work(Duration::from_micros(pause));
    }
    scene.did("sessions ended", from, None);
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    scene.measure("sessions ended", ended as f64, None, "");
    scene.work(scene.times.t * 2);
    was_met(scene, &["57P01"])
}

/// A colleague has the row of a lock locked for a while. Whoever waits for it has waited long enough
/// at some time, or is cancelled meanwhile.
fn cancelled(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..6 {
        let key = round % 2;
        let other = scene.keep(1 - key)?;
        let mut colleague = Servers::of(scene)?.admin()?;
        let mut admin = Servers::of(scene)?.admin()?;
        let (from, end) = (micros(), micros() + as_micros(scene.times.t * 2 / 5));
        let row = format!("SELECT key FROM locker.locks WHERE key = '{}'", name(key));
        colleague.run(&format!("BEGIN; {row} FOR UPDATE"))?;
        while micros() < end {
            // In every second round they wait as long as they are let.
            if round % 2 == 0 {
                admin.number(
                    "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                     WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()",
                )?;
            }
            scene.work(scene.times.t / 50);
        }
        colleague.run("ROLLBACK")?;
        scene.did("a row is locked", from, None);
        scene.let_go(other);
        scene.work(scene.times.t / 2);
    }
    was_met(scene, &["57014", "55P03"])?;
    said_so(scene);
    Ok(())
}

/// Somebody locks the rows of a process and of its lock, in the order in which the locker does not.
/// A take-over that has the lock's row and waits for the process's is what the server ends.
fn deadlocked(scene: &mut Scene) -> Result<(), String> {
    // Below the time for which a request waits for a row.
    let mut admin = Servers::of(scene)?.admin()?;
    admin.run("ALTER SYSTEM SET deadlock_timeout = '50ms'")?;
    admin.run("SELECT pg_reload_conf()::text")?;
    scene.start_all(true)?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        scene.strikes(kept.place);
        scene.work(scene.times.t / 5);
        let mut colleague = Servers::of(scene)?.admin()?;
        colleague.run("SET deadlock_timeout = '10s'")?;
        let process = process_of(&mut admin, kept)?;
        let from = scene.fleet.kill(kept.place);
        // Its record must run out by itself, and nobody renews it any more.
        colleague.run(&format!(
            "BEGIN; SELECT process FROM locker.processes WHERE process = '{process}' FOR UPDATE"
        ))?;
        crosses(scene, &mut admin, &mut colleague, kept)?;
        colleague.run("ROLLBACK")?;
        scene.did("rows locked in the other order", from, Some(kept.place));
        let next = scene.taken(kept, from, scene.times.t * 5);
        scene.expect(next.is_some(), "nobody took over");
        scene.replace(kept.place)?;
        scene.work(scene.times.t / 2);
    }
    was_met(scene, &["40P01"])?;
    said_so(scene);
    Ok(())
}

/// Waits until somebody has the lock's row and waits for the process's, and then wants the first.
fn crosses(
    scene: &mut Scene,
    admin: &mut Admin,
    colleague: &mut Admin,
    kept: Kept,
) -> Result<(), String> {
    let end = micros() + as_micros(scene.times.t * 4);
    let waits = "SELECT count(*) FROM pg_stat_activity
                 WHERE wait_event_type = 'Lock' AND query LIKE '%take_over%'";
    while admin.number(waits)? == 0 {
        if micros() > end {
            return Err("nobody tried to take over".to_owned());
        }
        scene.work(Duration::from_millis(1));
    }
    let row = format!(
        "SELECT key FROM locker.locks WHERE key = '{}'",
        name(kept.key)
    );
    colleague.run(&format!("{row} FOR UPDATE"))
}

/// The process of an owner, by the server's word.
pub(super) fn process_of(admin: &mut Admin, kept: Kept) -> Result<String, String> {
    let sql = format!(
        "SELECT process FROM locker.locks WHERE token = {}",
        kept.token
    );
    let found = admin.texts(&sql)?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| "the owner has no record".to_owned())
}

/// Every tenth write of a lock is refused with a conflict: no level of isolation that the locker uses
/// makes one, but an extension or a trigger may.
fn conflicting(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let mut admin = Servers::of(scene)?.admin()?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        let from = micros();
        admin.run(
            "CREATE OR REPLACE FUNCTION public.conflict() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF random() < 0.1 THEN
                     RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER conflict BEFORE INSERT OR UPDATE ON locker.locks
             FOR EACH ROW EXECUTE FUNCTION public.conflict()",
        )?;
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
        admin.run("DROP TRIGGER conflict ON locker.locks")?;
        scene.did("writes are refused", from, None);
        scene.work(scene.times.t / 2);
    }
    was_met(scene, &["40001"])?;
    said_so(scene);
    Ok(())
}

/// All connections are somebody else's: whoever has one keeps it, whoever has lost his gets none.
fn exhausted(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        let mut admin = Servers::of(scene)?.admin()?;
        // Nobody but an administrator is let in; then nobody else is there.
        let from = micros();
        let_in(scene, &mut admin, 0)?;
        admin.number(END_ALL)?;
        scene.work(scene.times.t * 3 / 10);
        let_in(scene, &mut admin, -1)?;
        scene.did("no connection is left", from, None);
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    was_met(scene, &["53300"])?;
    said_so(scene);
    Ok(())
}

/// So many connections of each worker are let in from now on; -1 is any number.
fn let_in(scene: &Scene, admin: &mut Admin, number: i32) -> Result<(), String> {
    (0..scene.fleet.places()).try_for_each(|worker| {
        let role = format!("worker{worker}");
        admin.run(&format!("ALTER ROLE {role} CONNECTION LIMIT {number}"))
    })
}

/// The server is going to end, and waits for a session that does not: it lets nobody in. Then it is
/// started again.
fn doors_closed(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..3 {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        let from = micros();
        let servers = Servers::of(scene)?;
        // It stays until the server is killed.
        let mut last = servers.admin()?;
        servers.primary().close_doors().map_err(text)?;
        last.number(END_ALL)?;
        scene.work(scene.times.t / 5);
        let servers = Servers::of(scene)?;
        servers.first().start_again().map_err(text)?;
        scene.took("closed doors", from, micros(), Some(scene.times.t / 2));
        scene.watch_servers();
        scene.did("the server lets nobody in", from, None);
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    was_met(scene, &["57P03"])?;
    said_so(scene);
    Ok(())
}

/// The server has given these answers.
fn was_met(scene: &mut Scene, codes: &[&str]) -> Result<(), String> {
    for code in codes {
        let count = Servers::of(scene)?.refusals(code);
        #[expect(clippy::cast_precision_loss, reason = "hundreds")]
        scene.measure(&format!("answers {code}"), count as f64, None, "");
        scene.expect(count > 0, format!("nobody was ever answered {code}"));
    }
    Ok(())
}

/// Whoever was refused was told so in the words for it.
fn said_so(scene: &mut Scene) {
    let records = scene.fleet.log.records();
    let strange = records.iter().find_map(|record| match &record.event {
        Event::Refused { kind, .. } if !SAID.contains(&kind.as_str()) => Some(kind.clone()),
        _ => None,
    });
    if let Some(kind) = strange {
        scene.expect(false, format!("somebody was refused with {kind}"));
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: io::Error) -> String {
    error.to_string()
}
