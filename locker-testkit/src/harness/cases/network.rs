//! What is done to the network of a worker, and to servers: F07 to F12, F14, F29, on stores that have
//! them. The same faults inside a worker, and those of any store, are in [`troubles`](super::troubles).

use super::troubles::{Blow, noticed, resumes, strike};
use super::{Case, Expect};
use crate::harness::deployment::Data;
use crate::harness::network::Weather;
use crate::harness::scene::Scene;
use crate::harness::times::{as_micros, micros};
use std::time::Duration;

/// F07.
pub const CUT_OFF: Case = Case::variant("by network", Expect::STRUCK.with_errors(), cut_off);
/// F08.
pub const REPLIES_LOST: Case =
    Case::variant("by network", Expect::STRUCK.with_errors(), replies_lost);
/// F09.
pub const ONE_REPLY_LOST: Case =
    Case::variant("by network", Expect::HOLD.with_errors(), one_reply_lost);
/// F10.
pub const RESETS: Case = Case::new(Expect::HOLD.with_errors(), resets);
/// F11.
pub const HALF_OPEN: &[Case] = &[
    Case::variant("once", Expect::HOLD.with_errors(), half_open),
    Case::variant("for 3 T", Expect::STRUCK.with_errors(), half_open_long),
];
/// F12. A grant takes several times the delay.
pub const DELAY: Case = Case::new(Expect::HOLD.with_errors().grants(20), |scene| {
    delay(scene, scene.times.t / 10)
});
/// F12, on a store whose renewal is two round trips, one after the other: four ways of 0.1 T each do
/// not fit into a request's 0.3 T, so it would show how time-outs go, and no delay.
pub const HALF_DELAY: Case =
    Case::variant("0.05 T", Expect::HOLD.with_errors().grants(20), |scene| {
        delay(scene, scene.times.t / 20)
    });
/// F14.
pub const RESTARTED: &[Case] = &[
    Case::variant("0.2 T", Expect::HOLD.with_errors(), short_restart),
    Case::variant("3 T", Expect::ANYBODY, long_restart),
];
/// F15, by a restart.
pub const RESTARTED_EMPTY: Case = Case::variant(
    "restarted empty",
    Expect::ANYBODY.broken_ground(),
    restarted_empty,
);
/// F29.
pub const LANDS_LATE: Case = Case::variant(
    "by network",
    Expect::HOLD.with_errors().grants(100),
    lands_late,
);

const SETTLED: Duration = Duration::from_millis(150);

fn cut_off(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..scene.repetitions(2) {
        let kept = scene.keep(round % 2)?;
        scene.work(SETTLED);
        strike(scene, kept, Blow::Network(Weather::CutOff), "cut off", true)?;
    }
    Ok(())
}

fn replies_lost(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for key in 0..2 {
        let kept = scene.keep(key)?;
        scene.work(SETTLED);
        let blow = Blow::Network(Weather::RepliesLost);
        strike(scene, kept, blow, "replies lost", false)?;
        let lost = scene.network(kept.place)?.counts().swallowed;
        scene.expect(lost > 0, "no reply was lost");
    }
    Ok(())
}

/// Whatever reply is the next one, of an owner that keeps a lock and asks for another.
fn one_reply_lost(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..8 {
        let kept = scene.keep(round % 2)?;
        scene.work(SETTLED);
        let before = scene.network(kept.place)?.counts().swallowed;
        let at = scene.weather(kept.place, Weather::RepliesLost)?;
        let end = at + as_micros(scene.times.t / 2);
        while scene.network(kept.place)?.counts().swallowed == before && micros() < end {
            scene.work(Duration::from_micros(200));
        }
        let lost = scene.network(kept.place)?.counts().swallowed > before;
        scene.expect(lost, "no reply was lost");
        scene.heal(kept.place, "a reply lost", at);
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
    }
    Ok(())
}

fn resets(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let both = [scene.keep(0)?, scene.keep(1)?];
    let t = as_micros(scene.times.t);
    let connections = |scene: &Scene| -> Result<u64, String> {
        let places = 0..scene.fleet.places();
        let counted = places.map(|place| Ok(scene.network(place)?.counts().connections));
        counted.sum()
    };
    let before = connections(scene)?;
    let (from, end) = (micros(), micros() + t * 4);
    let mut resets: u32 = 0;
    while micros() < end {
        for place in 0..scene.fleet.places() {
            scene.network(place)?.reset();
        }
        resets += 1;
        // After a while the keys are worked on again.
        if resets == 6 {
            for kept in both {
                scene.let_go(kept);
            }
        }
        let pause = t / 10 + scene.rng.below(t * 2 / 5);
        scene.work(Duration::from_micros(pause));
    }
    scene.did("resets", from, None);
    for kept in both {
        scene.let_go(kept);
    }
    scene.measure("resets of everybody", f64::from(resets), None, "");
    let rebuilt = connections(scene)?.saturating_sub(before);
    scene.expect(rebuilt >= u64::from(resets), "connections were not rebuilt");
    scene.work(scene.times.t * 3);
    Ok(())
}

fn half_open(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        scene.work(SETTLED);
        let at = scene.weather(kept.place, Weather::HalfOpen)?;
        scene.work(scene.times.t);
        scene.did("half open", at, Some(kept.place));
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    Ok(())
}

fn half_open_long(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for key in 0..2 {
        let kept = scene.keep(key)?;
        scene.work(SETTLED);
        strike(
            scene,
            kept,
            Blow::Network(Weather::Silence),
            "half open",
            true,
        )?;
    }
    Ok(())
}

fn delay(scene: &mut Scene, most: Duration) -> Result<(), String> {
    scene.start_all(true)?;
    scene.work(scene.times.t);
    let from = micros();
    for place in 0..scene.fleet.places() {
        scene.weather(place, Weather::Delay(most))?;
    }
    let both = [scene.keep(0)?, scene.keep(1)?];
    scene.work(scene.times.t * 2);
    for kept in both {
        scene.let_go(kept);
    }
    scene.work(scene.times.t * 4);
    for place in 0..scene.fleet.places() {
        scene.heal(place, "delay", from);
    }
    Ok(())
}

fn short_restart(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..3 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(SETTLED);
        let (from, back) = scene.restart(scene.times.t / 5, Data::Kept)?;
        let down = Duration::from_micros(back - from);
        // Deadlines pass in the end, so a server that takes its time to come back shows nothing.
        let limit = scene.times.t / 2;
        scene.took("the restart", from, back, Some(limit));
        scene.note(format!("the server was gone for {down:.0?}"));
        scene.work(scene.times.t);
        for kept in both {
            scene.let_go(kept);
        }
        for kept in both {
            resumes(scene, kept, back);
        }
        scene.work(scene.times.t);
    }
    Ok(())
}

fn long_restart(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..2 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(SETTLED);
        let (from, back) = scene.restart(scene.times.t * 3, Data::Kept)?;
        for kept in both {
            let told = scene.loss(kept, Duration::from_millis(1));
            scene.expect(told.is_some(), "an owner was not told of its loss");
            if let Some(told) = told {
                let limit = scene.times.t + scene.times.t / 10;
                scene.took("the server's end to STOP", from, told, Some(limit));
            }
            resumes(scene, kept, back);
        }
        scene.work(scene.times.t * 3 / 2);
    }
    Ok(())
}

fn restarted_empty(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..2 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(SETTLED);
        let (_, back) = scene.restart(scene.times.t / 10, Data::Gone)?;
        noticed(scene, &both, back);
        scene.work(scene.times.t);
    }
    Ok(())
}

/// All that a worker has under way is kept, its connections end by their time-outs, it goes on with
/// new ones, and then the old bytes arrive.
fn lands_late(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let delays: &[u32] = if scene.full { &[1, 10, 30] } else { &[1, 2, 3] };
    for delay in delays {
        let place = scene.any_place();
        let before = scene.network(place)?.counts().delivered_late;
        let at = scene.weather(place, Weather::Hold)?;
        scene.work(scene.times.t * *delay);
        scene.heal(place, "requests held back", at);
        let delivered = micros();
        let end = delivered + as_micros(scene.times.t);
        while scene.network(place)?.counts().delivered_late == before && micros() < end {
            scene.work(Duration::from_millis(1));
        }
        let late = scene.network(place)?.counts().delivered_late > before;
        scene.expect(late, "nothing was delivered after its client had closed");
        // If a create had landed, it would stand in everybody's way under a living process.
        for key in 0..2 {
            match scene.next_grant(key, delivered, scene.times.t * 2) {
                Some(next) => scene.took(
                    "the late bytes to the next grant",
                    delivered,
                    next.at,
                    Some(scene.times.t),
                ),
                None => scene.expect(false, "what landed late holds a lock"),
            }
        }
    }
    Ok(())
}
