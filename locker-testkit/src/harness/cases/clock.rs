//! F22: the server's clock is stepped, which breaks A3. How a server gets a clock that can be stepped
//! is its deployment's.
//!
//! Forward, every record is out of date at once: owners find out at their next report, and meanwhile
//! others may be granted the lock. Back, records of the dead live for longer by as much; so the case
//! steps forward again before it ends. Tokens grow whatever happens.

use crate::harness::cases::{Expect, Ground};
use crate::harness::event::Event;
use crate::harness::scene::Scene;
use crate::harness::times::micros;
use crate::servers::clock::SteppedClock;
use std::time::Duration;

/// What must hold when it is stepped forward.
pub(super) const FORWARD: Expect = Expect::ANYBODY.broken_ground();
/// What must hold when it is stepped back.
pub(super) const BACK: Expect = Expect {
    ground: Ground::Broken,
    ..Expect::HOLD.with_errors()
};

/// Restarts the server of a scene, in which no worker runs yet, with a clock that can be stepped.
pub(super) type WithAClock = fn(&mut Scene) -> Result<SteppedClock, String>;

const HOUR: i64 = 3600;

/// An hour forward, three times.
pub(super) fn forward(scene: &mut Scene, with_a_clock: WithAClock) -> Result<(), String> {
    let clock = with_a_clock(scene)?;
    scene.start_all(true)?;
    scene.work(scene.times.t);
    for step in 1..=3 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(scene.times.t / 5);
        let (at, index) = (micros(), scene.fleet.log.length());
        clock.set(step * HOUR).map_err(|error| error.to_string())?;
        let limit = scene.times.noticed();
        for kept in both {
            match scene.loss(kept, limit * 2) {
                Some(told) => scene.took("the step to STOP", at, told, Some(limit)),
                None => scene.expect(false, "an owner was not told of its loss"),
            }
        }
        for kept in both {
            match scene.next_grant(kept.key, at, scene.times.t * 5) {
                Some(next) => {
                    scene.took("the step to the next grant", at, next.at, None);
                    scene.expect(next.token > kept.token, "the token went back");
                }
                None => scene.expect(false, "grants did not resume"),
            }
        }
        scene.did("an hour forward", at, None);
        reported(scene, index, true);
        scene.work(scene.times.t);
    }
    Ok(())
}

/// An hour back, twice, and forward again.
pub(super) fn back(scene: &mut Scene, with_a_clock: WithAClock) -> Result<(), String> {
    let clock = with_a_clock(scene)?;
    clock.set(HOUR).map_err(|error| error.to_string())?;
    scene.start_all(true)?;
    scene.work(scene.times.t);
    for step in [0, -1] {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(scene.times.t / 5);
        let (at, index) = (micros(), scene.fleet.log.length());
        clock.set(step * HOUR).map_err(|error| error.to_string())?;
        // Long enough for reports, extensions and checks.
        scene.work(scene.times.t * 2);
        for kept in both {
            let lost = scene.loss(kept, Duration::ZERO);
            scene.expect(lost.is_none(), "a lock was lost although nothing expired");
            scene.let_go(kept);
        }
        for kept in both {
            let next = scene.next_grant(kept.key, at, scene.times.t * 5);
            let grew = next.is_some_and(|next| next.token > kept.token);
            scene.expect(grew, "no grant with a larger token");
        }
        scene.did("an hour back", at, None);
        reported(scene, index, false);
        scene.work(scene.times.t);
    }
    // The lock of a process that dies now is free an hour later, by the server's clock.
    let kept = scene.keep(0)?;
    scene.fleet.kill(kept.place);
    let early = scene.taken(kept, micros(), scene.times.taken_over());
    scene.note(match early {
        Some(_) => "who was born after the step is taken over as ever",
        None => "who was born before the step is taken over an hour later",
    });
    let at = micros();
    clock.set(HOUR).map_err(|error| error.to_string())?;
    scene.did("forward again", at, None);
    scene.findings.struck.extend(0..scene.fleet.places());
    let next = scene.taken(kept, at, scene.times.t * 10);
    scene.expect(next.is_some() || early.is_some(), "nobody took over");
    scene.replace(kept.place)?;
    scene.work(scene.times.t);
    Ok(())
}

/// The clock that a server is going to be started with, which has shown that the server goes by it:
/// `says` answers the server's time, in seconds since 1970, once it was restarted.
pub(super) fn proved(
    clock: SteppedClock,
    mut says: impl FnMut() -> Result<i64, String>,
) -> Result<SteppedClock, String> {
    clock.set(HOUR).map_err(|error| error.to_string())?;
    let server = says()?;
    clock.set(0).map_err(|error| error.to_string())?;
    let machine = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    if (server - machine - HOUR).abs() > 60 {
        return Err(format!(
            "the server's clock is {server}, the machine's {machine}"
        ));
    }
    Ok(clock)
}

/// Somebody's locker has told its user.
fn reported(scene: &mut Scene, index: usize, forward: bool) {
    let told = scene
        .fleet
        .log
        .wait_for(index, scene.times.t * 3, |record| match record.event {
            Event::StoreClock { forward: which, .. } if which == forward => Some(()),
            _ => None,
        });
    scene.expect(
        told.is_some(),
        "no locker reported the step of the store's clock",
    );
}
