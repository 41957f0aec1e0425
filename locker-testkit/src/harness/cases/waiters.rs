//! What waiters go through: F27 and F31.

use super::{Case, Expect};
use crate::harness::event::{Event, Record};
use crate::harness::order::Order;
use crate::harness::scene::Scene;
use crate::harness::times::{as_micros, micros};
use std::time::Duration;

/// F27.
pub const HERD: &[Case] = &[
    Case::variant("", Expect::HOLD.grants(100), herd),
    Case::variant("one killed", Expect::HOLD.grants(100), herd_with_a_death),
];
/// F31.
pub const FIRST_LEAVES: &[Case] = &[
    Case::variant("killed", Expect::HOLD.grants(12), first_is_killed),
    Case::variant("leaves", Expect::HOLD.grants(20), first_gives_up),
];

/// How soon the next waiter is served where the store can notify.
const SERVED: Duration = Duration::from_millis(50);
/// Long enough for a waiter to have enrolled.
const ENROLLED: Duration = Duration::from_millis(150);

fn herd(scene: &mut Scene) -> Result<(), String> {
    herd_of_500(scene, false)
}

fn herd_with_a_death(scene: &mut Scene) -> Result<(), String> {
    herd_of_500(scene, true)
}

fn herd_of_500(scene: &mut Scene, with_a_death: bool) -> Result<(), String> {
    scene.start_all(false)?;
    let kept = scene.take_at(0, 0)?;
    for place in 0..scene.fleet.places() {
        scene.fleet.tell(place, Order::Herd(0, 125));
    }
    scene.work(scene.times.t * 3 / 2);
    let before = attempts(scene)?;
    let from = micros();
    let index = scene.fleet.log.length();
    scene.let_go(kept);
    let half = grants(scene, index, 50)?;
    let mut killed = None;
    if with_a_death {
        // The last of the line is killed while it waits, and found dead when its turn comes.
        let place = scene.fleet.places() - 1;
        let at = scene.fleet.kill(place);
        scene.did("a waiting process killed", at, Some(place));
        killed = Some(at);
    }
    let last = grants(scene, index, 100)?;
    scene.took("50 more releases", half, last, None);
    let after = attempts(scene)?;
    let records = scene.fleet.log.records();
    let was_sent =
        |record: &&Record| matches!(record.event, Event::ReleaseSent { .. }) && record.at >= from;
    let releases = records.iter().filter(was_sent).count();
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let per_release = after.saturating_sub(before) as f64 / releases.max(1) as f64;
    scene.measure(
        "attempts at the store per release",
        per_release,
        Some(2.0),
        "",
    );
    turns(scene, &records, from, killed);
    hand_offs(scene, &records, from, killed);
    Ok(())
}

/// When the nth grant since this index was.
fn grants(scene: &Scene, index: usize, nth: usize) -> Result<u64, String> {
    let mut seen = 0;
    let patience = scene.times.t * 20;
    let found = scene.fleet.log.wait_for(index, patience, |record| {
        seen += usize::from(matches!(record.event, Event::Grant { .. }));
        (seen == nth).then_some(record.at)
    });
    found.ok_or_else(|| format!("{seen} of {nth} waiters were served within {patience:?}"))
}

/// How many attempts at the store the living workers have made.
fn attempts(scene: &mut Scene) -> Result<u64, String> {
    let index = scene.fleet.log.length();
    let mut sum = 0;
    for place in 0..scene.fleet.places() {
        let Some(pid) = scene.fleet.pid(place) else {
            continue;
        };
        scene.fleet.tell(place, Order::Heal);
        let said = scene
            .fleet
            .log
            .wait_for(index, scene.times.t * 5, |record| match record.event {
                Event::Did { attempts, .. } if record.pid == pid => Some(attempts),
                _ => None,
            });
        sum += said.ok_or("a worker did not say how often it had tried")?;
    }
    Ok(sum)
}

/// Processes are served in the order in which they enrolled, and enrol anew after each turn: so
/// they take turns.
fn turns(scene: &mut Scene, records: &[Record], from: u64, killed: Option<u64>) {
    let until = killed.unwrap_or(u64::MAX);
    let granted = |record: &&Record| {
        matches!(record.event, Event::Grant { .. }) && (from..until).contains(&record.at)
    };
    let places: Vec<usize> = records
        .iter()
        .filter(granted)
        .map(|record| record.worker)
        .collect();
    let processes = scene.fleet.places();
    let out_of_turn = places
        .windows(processes)
        .filter(|turn| (0..processes).any(|place| !turn.contains(&place)))
        .count();
    #[expect(clippy::cast_precision_loss, reason = "hundreds")]
    let percent = 100.0 * out_of_turn as f64 / places.len().max(1) as f64;
    scene.measure(
        "rounds in which somebody was passed over",
        percent,
        None,
        "%",
    );
}

/// From each release to the grant that follows it.
fn hand_offs(scene: &mut Scene, records: &[Record], from: u64, killed: Option<u64>) {
    let mut sent = None;
    let mut longest = (0, 0);
    for record in records.iter().filter(|record| record.at >= from) {
        match (&record.event, sent) {
            (Event::ReleaseSent { .. }, _) => sent = Some(record.at),
            (Event::Grant { .. }, Some(since)) => {
                if record.at - since > longest.1 - longest.0 {
                    longest = (since, record.at);
                }
                sent = None;
            }
            _ => {}
        }
    }
    let limit = killed.map(|_| SERVED);
    scene.took("longest hand-off", longest.0, longest.1, limit);
}

fn first_is_killed(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(false)?;
    for _ in 0..scene.repetitions(6) {
        let kept = scene.take_at(0, 0)?;
        scene
            .fleet
            .tell(1, Order::Take(0, as_micros(scene.times.t * 10) / 1000));
        scene.work(ENROLLED);
        let (at, next) = handed_over(scene, |scene| {
            scene.let_go(kept);
            // Some are killed before they are woken, some while they are.
            let moment = scene.rng.below(2000);
            scene.work(Duration::from_micros(moment));
            scene.fleet.kill(1)
        })?;
        scene.did("the first waiter killed", at, Some(1));
        if let Some(next) = next {
            // Promised is SERVED; this fails above twice that, and the report has every repetition. A
            // server that writes to its disk for each attempt is seldom much faster.
            scene.took("the waiter's death to the next", at, next, Some(2 * SERVED));
        }
        scene.start(1, false)?;
        scene.fleet.ready([1])?;
        // To the store the dead one lives on until its record has run out, and stands in line as
        // long: the next round is about one death, not about several.
        let gone = at + as_micros(scene.times.taken_over());
        scene.work(Duration::from_micros(gone.saturating_sub(micros())));
    }
    Ok(())
}

fn first_gives_up(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(false)?;
    for _ in 0..10 {
        let kept = scene.take_at(0, 0)?;
        scene.fleet.tell(1, Order::Take(0, 300));
        scene.work(Duration::from_millis(150));
        let (at, next) = handed_over(scene, |scene| {
            let moment = scene.rng.below(10_000);
            scene.work(Duration::from_micros(145_000 + moment));
            let at = micros();
            scene.let_go(kept);
            // Where it was quicker than its patience, it lets go as well.
            scene.fleet.tell(1, Order::LetGo(0));
            at
        })?;
        if let Some(next) = next {
            scene.took("release to the next", at, next, Some(SERVED));
        }
    }
    Ok(())
}

/// A second waiter stands behind the first; answers when `hand_over` happened and when the second
/// one got the lock, which it lets go of again.
fn handed_over(
    scene: &mut Scene,
    hand_over: impl FnOnce(&mut Scene) -> u64,
) -> Result<(u64, Option<u64>), String> {
    let index = scene.fleet.log.length();
    scene
        .fleet
        .tell(2, Order::Take(0, as_micros(scene.times.t * 10) / 1000));
    scene.work(ENROLLED);
    let at = hand_over(scene);
    let next = scene
        .fleet
        .log
        .wait_for(index, scene.times.t * 5, |record| {
            let granted = matches!(record.event, Event::Grant { .. });
            (granted && record.worker == 2).then_some(record.at)
        });
    let next = next.ok_or("the second waiter was not served")?;
    scene.fleet.tell(2, Order::LetGo(0));
    Ok((at, Some(next)))
}
