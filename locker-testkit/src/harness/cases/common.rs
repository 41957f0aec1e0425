//! What is done to processes: F00 to F06, F26.

use super::{Case, Expect};
use crate::harness::event::Event;
use crate::harness::order::{Order, Trouble};
use crate::harness::scene::Scene;
use crate::harness::times::{as_micros, micros};
use nix::sys::signal::Signal;
use std::time::Duration;

/// F00.
pub const NONE: &[Case] = &[Case::new(Expect::HOLD, none)];
/// F01.
pub const KILLED: &[Case] = &[Case::new(Expect::HOLD, killed)];
/// F02.
pub const TERMINATED: &[Case] = &[Case::new(Expect::HOLD, terminated)];
/// F03.
pub const PAUSED_SHORTLY: &[Case] = &[Case::new(Expect::HOLD, paused_shortly)];
/// F04.
pub const PAUSED_LONG: &[Case] = &[Case::new(Expect::STRUCK.with_errors(), paused_long)];
/// F05.
pub const REPORTER_STALLED: &[Case] = &[Case::new(Expect::STRUCK.with_errors(), reporter_stalled)];
/// F06.
pub const RUNTIME_BLOCKED: &[Case] = &[Case::new(Expect::HOLD, runtime_blocked)];
/// F26.
pub const FORKED: &[Case] = &[Case::new(Expect::HOLD, forked)];

/// How long a lock is kept before something happens to its owner.
const SETTLED: Duration = Duration::from_millis(150);

fn none(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t * 6);
    Ok(())
}

fn killed(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..scene.repetitions(6) {
        let kept = scene.keep(round % 2)?;
        scene.work(SETTLED);
        let at = scene.fleet.kill(kept.place);
        scene.did("killed", at, Some(kept.place));
        let limit = scene.killed_is_taken_over;
        match scene.taken(kept, at, scene.times.taken_over() * 2) {
            Some(granted) => scene.took("kill -9 to the next owner", at, granted.at, Some(limit)),
            None => scene.expect(false, "nobody took over"),
        }
        scene.replace(kept.place)?;
        scene.work(scene.times.t / 2);
    }
    Ok(())
}

fn terminated(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..scene.repetitions(6) {
        let kept = scene.keep(round % 2)?;
        scene.work(SETTLED);
        let at = scene.fleet.signal(kept.place, Signal::SIGTERM);
        let limit = Duration::from_millis(100);
        match scene.taken(kept, at, scene.times.taken_over() * 2) {
            Some(granted) => scene.took("SIGTERM to the next owner", at, granted.at, Some(limit)),
            None => scene.expect(false, "nobody got the lock"),
        }
        let status = scene.fleet.wait(kept.place, scene.times.t * 3);
        let good = status.is_some_and(|status| status.success());
        scene.expect(good, format!("the process ended with {status:?}"));
        scene.did("SIGTERM", at, Some(kept.place));
        scene.replace(kept.place)?;
        scene.work(scene.times.t / 2);
    }
    Ok(())
}

fn paused_shortly(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..8 {
        let kept = scene.keep(round % 2)?;
        scene.work(SETTLED);
        scene.pause(kept.place, scene.times.t / 5, |_, _| ());
        scene.work(SETTLED);
        scene.let_go(kept);
        scene.work(scene.times.t / 3);
    }
    Ok(())
}

fn paused_long(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    // A pause that strikes inside a write transaction stops everybody, and shows no take-over.
    let (mut taken_over, mut pauses) = (0, 0);
    let wanted = scene.repetitions(2);
    while taken_over < wanted && pauses < 3 * wanted {
        let kept = scene.keep(pauses % 2)?;
        pauses += 1;
        scene.strikes(kept.place);
        scene.work(SETTLED);
        let limit = scene.times.taken_over();
        let how_long = scene.times.t * 3;
        let (stopped, continued, granted) = scene.pause(kept.place, how_long, |scene, at| {
            scene.taken(kept, at, how_long)
        });
        match granted {
            Some(granted) => {
                taken_over += 1;
                scene.took(
                    "SIGSTOP to the next owner",
                    stopped,
                    granted.at,
                    Some(limit),
                );
                let token = granted.token;
                scene.expect(
                    token > kept.token,
                    "the token of the next owner is not larger",
                );
            }
            None if nobody_owns(scene, stopped, continued, kept.place) => {
                // Then nobody's reports arrive, and everybody stops.
                (0..scene.fleet.places()).for_each(|place| scene.strikes(place));
                scene.note("stopped inside a write transaction: nobody could write meanwhile");
            }
            None => scene.expect(false, "nobody took over from the stopped owner"),
        }
        let told = scene.loss(kept, scene.times.t);
        scene.expect(told.is_some(), "the owner was not told of its loss");
        if let Some(told) = told {
            let limit = scene.times.stalled();
            scene.took("SIGCONT to STOP", continued, told, Some(limit));
        }
        if granted.is_some() {
            let late = |event: &Event| match event {
                Event::Late {
                    token, accepted, ..
                } => *token == kept.token && !accepted,
                _ => false,
            };
            let fenced = scene.heard(kept, scene.times.t, late).is_some();
            scene.expect(fenced, "the late write was not refused");
        }
        scene.work(scene.times.t);
    }
    scene.expect(
        taken_over > 0,
        "no pause struck outside a write transaction",
    );
    Ok(())
}

/// Whether nobody but this worker had a grant in the time that a report takes to lapse.
fn nobody_owns(scene: &Scene, from: u64, to: u64, except: usize) -> bool {
    let settled = from + as_micros(scene.times.timing().request_timeout * 2);
    let granted = |record: &crate::harness::event::Record| {
        matches!(record.event, Event::Grant { .. })
            && (settled..to).contains(&record.at)
            && record.worker != except
    };
    !scene.fleet.log.records().iter().any(granted)
}

fn reporter_stalled(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for key in 0..2 {
        let kept = scene.keep(key)?;
        scene.strikes(kept.place);
        scene.work(SETTLED);
        let at = scene.trouble(kept.place, Trouble::BlockReports);
        let told = scene.loss(kept, scene.times.t * 3);
        scene.expect(told.is_some(), "the owner was not told of its loss");
        if let Some(told) = told {
            scene.took(
                "the Reporter's stall to STOP",
                at,
                told,
                Some(scene.times.t * 6 / 5),
            );
        }
        // The stall begins with the next report.
        let limit = scene.times.taken_over() + scene.times.timing().report_every;
        match scene.taken(kept, at, limit * 2) {
            Some(granted) => {
                scene.took("the stall to the next owner", at, granted.at, Some(limit));
                let stopped = told.is_some_and(|told| told < granted.at);
                scene.expect(stopped, "the next owner came before the loss was told");
            }
            None => scene.expect(false, "nobody took over"),
        }
        scene.heal(kept.place, "Reporter stalled", at);
        scene.work(scene.times.t * 3 / 2);
    }
    Ok(())
}

fn runtime_blocked(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for key in 0..2 {
        let kept = scene.keep(key)?;
        scene.work(SETTLED);
        let (from, blocked) = (micros(), scene.times.t * 3);
        let millis = as_micros(blocked) / 1000;
        scene.fleet.tell(kept.place, Order::Block(millis));
        let done = |event: &Event| matches!(event, Event::Did { what, .. } if *what == format!("{:?}", Order::Block(millis)));
        let done = scene.heard(kept, blocked * 2, done);
        scene.expect(done.is_some(), "the runtime did not come back");
        scene.did("runtime blocked", from, Some(kept.place));
        let taken = scene.taken(kept, from, Duration::ZERO);
        scene.expect(taken.is_none(), "somebody took a lock whose owner reports");
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    Ok(())
}

fn forked(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for key in 0..2 {
        let kept = scene.keep(key)?;
        scene.work(SETTLED);
        let from = micros();
        scene.fleet.tell(kept.place, Order::Fork(key));
        let patience = scene.times.t * 3;
        let place = kept.place;
        let child = scene
            .fleet
            .log
            .wait_for(0, patience, |record| match record.event {
                Event::Child {
                    refused,
                    valid_micros,
                } if record.worker == place && record.at > from => Some((refused, valid_micros)),
                _ => None,
            });
        scene.did("a forked child lives", from, Some(place));
        match child {
            Some((refused, valid)) => {
                scene.expect(
                    refused,
                    "the child could use its parent's guard or connection",
                );
                let limit = Some(scene.times.t);
                scene.took("the clone calls its copy valid for", 0, valid, limit);
            }
            None => scene.expect(false, "the child did not come back"),
        }
        let taken = scene.taken(kept, from, scene.times.t / 2);
        scene.expect(taken.is_none(), "the parent lost its lock");
        scene.let_go(kept);
        scene.work(scene.times.t);
    }
    Ok(())
}
