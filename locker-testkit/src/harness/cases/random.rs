//! F28: two random faults at a time.

use super::{Case, Expect};
use crate::harness::network::Weather;
use crate::harness::order::{Order, Trouble};
use crate::harness::scene::{Scene, Window};
use crate::harness::times::{as_micros, micros};
use nix::sys::signal::Signal;
use std::time::Duration;

/// F28.
pub const PAIRS: &[Case] = &[Case::new(Expect::ANYBODY, pairs)];

/// A fault that has begun, and when it ends.
#[derive(Debug)]
struct Begun {
    kind: Kind,
    place: usize,
    from: u64,
    until: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Killed,
    Stopped,
    Blocked,
    Standstill,
    Trouble(Trouble),
    Weather(Weather),
}

const KINDS: &[Kind] = &[
    Kind::Killed,
    Kind::Stopped,
    Kind::Blocked,
    Kind::Standstill,
    Kind::Trouble(Trouble::BlockReports),
    Kind::Trouble(Trouble::CutOff),
    Kind::Trouble(Trouble::LoseReplies),
    Kind::Trouble(Trouble::LoseCreate),
    Kind::Trouble(Trouble::LoseRelease),
    Kind::Trouble(Trouble::LoseReport),
];

/// Where there is a network.
const OF_NETWORKS: &[Kind] = &[
    Kind::Weather(Weather::CutOff),
    Kind::Weather(Weather::RepliesLost),
    Kind::Weather(Weather::HalfOpen),
    Kind::Weather(Weather::Silence),
    Kind::Weather(Weather::Hold),
];

fn pairs(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let seconds = if scene.full { 60 } else { 10 };
    let end = micros() + as_micros(scene.times.t * seconds);
    let mut lanes: [Option<Begun>; 2] = [None, None];
    while micros() < end {
        for lane in 0..lanes.len() {
            if lanes[lane]
                .as_ref()
                .is_some_and(|fault| micros() < fault.until)
            {
                continue;
            }
            if let Some(fault) = lanes[lane].take() {
                over(scene, &fault)?;
            }
            lanes[lane] = Some(begin(scene, lanes[1 - lane].as_ref())?);
        }
        scene.work(Duration::from_millis(5));
    }
    for fault in lanes.into_iter().flatten() {
        over(scene, &fault)?;
    }
    scene.work(scene.times.t * 2);
    Ok(())
}

fn any_kind(scene: &mut Scene) -> Kind {
    let more = match scene.site.network(0) {
        Some(_) => OF_NETWORKS,
        None => &[],
    };
    let index = scene.rng.index(KINDS.len() + more.len());
    let mut all = KINDS.iter().chain(more);
    *all.nth(index).unwrap_or(&Kind::Killed)
}

fn begin(scene: &mut Scene, other: Option<&Begun>) -> Result<Begun, String> {
    let mut kind = any_kind(scene);
    let mut place = scene.any_place();
    if let Some(other) = other {
        // Two faults at a time are two different ones, of two workers.
        while kind == other.kind {
            kind = any_kind(scene);
        }
        while place == other.place {
            place = scene.any_place();
        }
    }
    // Mostly short, sometimes longer than a liveness TTL.
    let t = as_micros(scene.times.t);
    let how_long = if scene.rng.below(3) == 0 {
        t + scene.rng.below(t)
    } else {
        scene.rng.below(t / 3)
    };
    // Mostly it strikes an owner. If the worker gets no lock in time, because of the other fault or
    // because the others keep theirs, it is struck all the same.
    if scene.rng.below(4) != 0 {
        let key = scene.rng.index(2);
        let _ = scene.keep_within(place, key, scene.times.t / 4);
    }
    let from = micros();
    match kind {
        Kind::Killed => {
            scene.fleet.kill(place);
        }
        Kind::Stopped => {
            scene.fleet.signal(place, Signal::SIGSTOP);
        }
        Kind::Blocked => scene.fleet.tell(place, Order::Block(how_long / 1000)),
        Kind::Standstill => {
            // A worker that was stopped inside a write transaction has done it already.
            if let Err(error) = scene.site.stand_still() {
                scene.note(format!("the store stood still before: {error}"));
            }
        }
        Kind::Trouble(trouble) => {
            scene.trouble(place, trouble);
        }
        Kind::Weather(weather) => {
            scene.weather(place, weather)?;
        }
    }
    Ok(Begun {
        kind,
        place,
        from,
        until: micros() + how_long,
    })
}

fn over(scene: &mut Scene, fault: &Begun) -> Result<(), String> {
    let place = fault.place;
    match fault.kind {
        // Nobody waits for it: the other fault may keep it from getting ready.
        Kind::Killed => scene.start(place, true)?,
        Kind::Stopped => {
            scene.fleet.signal(place, Signal::SIGCONT);
        }
        Kind::Standstill => scene.site.go_on(),
        Kind::Weather(_) => scene.network(place)?.heal(),
        Kind::Blocked | Kind::Trouble(_) => {}
    }
    scene.fleet.tell(place, Order::Heal);
    for key in 0..2 {
        scene.fleet.tell(place, Order::LetGo(key));
    }
    let whole = fault.kind == Kind::Standstill;
    scene.findings.windows.push(Window {
        what: format!("{:?}", fault.kind),
        from: fault.from,
        to: micros(),
        worker: (!whole).then_some(place),
        paused: matches!(fault.kind, Kind::Stopped | Kind::Blocked),
    });
    Ok(())
}
