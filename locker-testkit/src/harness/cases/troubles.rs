//! What is done to requests, replies and the store as a whole: F07 to F09, F13 to F15, F29.

use super::{Case, Expect};
use crate::harness::event::Event;
use crate::harness::namespace::Lost;
use crate::harness::network::Weather;
use crate::harness::order::{Order, Trouble};
use crate::harness::scene::{Granted, Kept, Scene};
use crate::harness::times::{as_micros, micros};
use std::time::Duration;

/// F07.
pub const CUT_OFF: &[Case] = &[
    Case::variant("", Expect::STRUCK.with_errors(), cut_off),
    Case::variant(
        "after slow replies",
        Expect::STRUCK.with_errors(),
        cut_off_after_slow_replies,
    ),
];
/// F08.
pub const REPLIES_LOST: &[Case] = &[Case::new(Expect::STRUCK.with_errors(), replies_lost)];
/// F09.
pub const ONE_REPLY_LOST: &[Case] = &[Case::new(Expect::HOLD.with_errors(), one_reply_lost)];
/// F13.
pub const STANDSTILL: &[Case] = &[
    Case::variant("0.2 T", Expect::HOLD.with_errors(), short_standstill),
    Case::variant("3 T", Expect::ANYBODY, long_standstill),
];
/// F14, where the processes themselves are the server.
pub const ALL_RESTARTED: &[Case] = &[Case::new(Expect::HOLD, all_restarted)];
/// F15.
pub const EMPTIED: Case = Case::variant("emptied", Expect::ANYBODY.broken_ground(), emptied);
/// F29.
pub const LANDS_LATE: &[Case] = &[Case::new(
    Expect::HOLD.with_errors().grants(100),
    lands_late,
)];

const SETTLED: Duration = Duration::from_millis(150);

fn cut_off(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for key in 0..2 {
        struck(scene, key, Trouble::CutOff, "cut off", true)?;
    }
    Ok(())
}

/// A deadline counts from when the last confirmed report was sent, not from when it was answered:
/// here they are a quarter of T apart.
fn cut_off_after_slow_replies(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for key in 0..2 {
        let kept = scene.keep(key)?;
        let slow = scene.trouble(kept.place, Trouble::SlowReplies);
        scene.work(scene.times.t);
        scene.still_holds(kept, "slow replies alone lost a lock");
        scene.heal(kept.place, "slow replies", slow);
        strike(scene, kept, Blow::Inside(Trouble::CutOff), "cut off", true)?;
    }
    Ok(())
}

fn replies_lost(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for key in 0..2 {
        // Its renewals arrive, so nobody need take over before the lock is given back.
        struck(scene, key, Trouble::LoseReplies, "replies lost", false)?;
    }
    Ok(())
}

fn struck(
    scene: &mut Scene,
    key: usize,
    trouble: Trouble,
    what: &str,
    taken_meanwhile: bool,
) -> Result<(), String> {
    let kept = scene.keep(key)?;
    scene.work(SETTLED);
    strike(scene, kept, Blow::Inside(trouble), what, taken_meanwhile)
}

/// What strikes a worker for 3 T.
#[derive(Debug, Clone, Copy)]
pub(super) enum Blow {
    /// In the worker itself, around its store.
    Inside(Trouble),
    /// In the network between the worker and the store.
    Network(Weather),
    /// On the wire of a worker that has a machine of its own.
    Wire(Lost),
}

/// Strikes an owner for 3 T: it stops in time, another takes over, and afterwards it is a worker
/// like the others.
pub(super) fn strike(
    scene: &mut Scene,
    kept: Kept,
    blow: Blow,
    what: &str,
    taken_meanwhile: bool,
) -> Result<(), String> {
    scene.strikes(kept.place);
    let at = match blow {
        Blow::Inside(trouble) => scene.trouble(kept.place, trouble),
        Blow::Network(weather) => scene.weather(kept.place, weather)?,
        Blow::Wire(lost) => {
            let at = micros();
            let namespace = scene.namespaces.get(kept.place);
            let namespace = namespace.ok_or("the worker has no wire of its own")?;
            namespace.loses(lost).map_err(|error| error.to_string())?;
            at
        }
    };
    let told = scene.loss(kept, scene.times.t * 2);
    scene.expect(told.is_some(), "the owner was not told of its loss");
    if let Some(told) = told {
        scene.took("the fault to STOP", at, told, Some(scene.times.t));
    }
    let limit = taken_meanwhile.then(|| scene.times.taken_over());
    match scene.taken(kept, at, scene.times.t * 3) {
        Some(granted) => {
            scene.took("the fault to the next owner", at, granted.at, limit);
            let stopped = told.is_some_and(|told| told < granted.at);
            scene.expect(stopped, "the next owner came before the loss was told");
        }
        None => scene.expect(!taken_meanwhile, "nobody took over"),
    }
    let over = at + as_micros(scene.times.t * 3);
    scene.work(Duration::from_micros(over.saturating_sub(micros())));
    scene.heal(kept.place, what, at);
    let healed = micros();
    // A job that does not end when it should keeps the worker from asking for a while.
    let patience = scene.times.t * 8;
    let again = scene.fleet.log.wait_for(0, patience, |record| {
        let granted = matches!(record.event, Event::Grant { .. });
        (granted && record.pid == kept.pid && record.at > healed).then_some(record.at)
    });
    match again {
        Some(again) => scene.took(
            "the end of the fault to its next grant",
            healed,
            again,
            None,
        ),
        None => scene.expect(false, "the struck worker was never granted anything again"),
    }
    Ok(())
}

fn one_reply_lost(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let lost = [
        (Trouble::LoseCreate, "a create's reply lost"),
        (Trouble::LoseRelease, "a release's reply lost"),
    ];
    for round in 0..8 {
        let place = scene.any_place();
        for (trouble, what) in lost {
            let at = scene.trouble(place, trouble);
            scene.work(scene.times.t / 4);
            scene.did(what, at, Some(place));
        }
        // Whoever keeps a lock keeps it over a lost report and a lost extension.
        let kept = scene.keep(round % 2)?;
        let at = scene.trouble(kept.place, Trouble::LoseReport);
        scene.trouble(kept.place, Trouble::LoseExtend);
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
        scene.did("a report's reply lost", at, Some(kept.place));
    }
    for place in 0..scene.fleet.places() {
        scene.fleet.tell(place, Order::Heal);
    }
    Ok(())
}

/// A create is answered as lost, its compensating release is answered, and then it arrives.
fn lands_late(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for (round, delay) in [1, 2, 3].into_iter().enumerate() {
        let place = scene.any_place();
        let at = scene.trouble(place, Trouble::HoldCreate);
        scene.work(scene.times.t * delay);
        scene.fleet.tell(place, Order::Deliver);
        scene.did("a create held back", at, Some(place));
        // If it had landed, it would stand in everybody's way under a living process.
        let delivered = micros();
        let next = scene.next_grant(round % 2, delivered, scene.times.t * 2);
        match next {
            Some(next) => {
                scene.took(
                    "a late create to the next grant",
                    delivered,
                    next.at,
                    Some(scene.times.t),
                );
            }
            None => scene.expect(false, "a create that landed late holds its lock"),
        }
    }
    Ok(())
}

fn short_standstill(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..6 {
        let kept = scene.keep(round % 2)?;
        scene.work(SETTLED);
        standstill(scene, scene.times.t / 5)?;
        scene.work(SETTLED);
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    Ok(())
}

fn standstill(scene: &mut Scene, how_long: Duration) -> Result<(u64, u64), String> {
    let from = micros();
    let stood = scene.site.stand_still();
    stood.map_err(|error| format!("the store would not stand still: {error}"))?;
    scene.work(how_long);
    let to = micros();
    scene.site.go_on();
    scene.did("the store stands still", from, None);
    Ok((from, to))
}

fn long_standstill(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..2 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(SETTLED);
        let (from, to) = standstill(scene, scene.times.t * 3)?;
        for kept in both {
            let told = scene.loss(kept, Duration::from_millis(1));
            scene.expect(told.is_some(), "an owner was not told of its loss");
            if let Some(told) = told {
                let limit = scene.times.t + scene.times.t / 10;
                scene.took("the standstill to STOP", from, told, Some(limit));
            }
            resumes(scene, kept, to);
        }
        scene.work(scene.times.t * 3 / 2);
    }
    Ok(())
}

/// Grants of this key go on.
pub(super) fn resumes(scene: &mut Scene, kept: Kept, since: u64) {
    let next = scene.next_grant(kept.key, since, scene.times.t * 5);
    match next {
        Some(Granted { at, token, .. }) => {
            let limit = scene.times.t + scene.times.timing().report_every;
            scene.took(
                "the end of the fault to the next grant",
                since,
                at,
                Some(limit),
            );
            scene.expect(token > kept.token, "the token went back");
        }
        None => scene.expect(false, "grants did not resume"),
    }
}

fn all_restarted(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..3 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(scene.times.t);
        let from = micros();
        for place in 0..scene.fleet.places() {
            scene.fleet.kill(place);
        }
        scene.work(scene.times.t / 5);
        scene.did("everybody killed", from, None);
        for place in 0..scene.fleet.places() {
            scene.start(place, true)?;
        }
        scene.fleet.ready(0..scene.fleet.places())?;
        let ready = micros();
        for kept in both {
            resumes(scene, kept, ready);
        }
        scene.work(scene.times.t);
    }
    Ok(())
}

fn emptied(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..3 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(SETTLED);
        let at = micros();
        let emptied = scene.site.empty();
        emptied.map_err(|error| format!("the store could not be emptied: {error}"))?;
        scene.did("emptied", at, None);
        noticed(scene, &both, at);
        scene.work(scene.times.t);
    }
    Ok(())
}

/// All these owners find out in time that the store knows nothing of them, and grants go on.
pub(super) fn noticed(scene: &mut Scene, all: &[Kept], at: u64) {
    let limit = scene.times.noticed();
    for kept in all {
        match scene.loss(*kept, limit * 2) {
            Some(told) => scene.took("the record's end to STOP", at, told, Some(limit)),
            None => scene.expect(false, "an owner was not told that its record is gone"),
        }
        resumes(scene, *kept, at);
    }
}
