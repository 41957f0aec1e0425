//! F17: what a server answers in a state of its own. Each state is entered for a while, and the
//! server itself must have counted the error: otherwise nobody met it.

use crate::harness::cases::{Case, Expect};
use crate::harness::deployment::redis::site::Servers;
use crate::harness::event::Event;
use crate::harness::scene::Scene;
use crate::harness::times::{as_micros, micros};
use std::thread;
use std::time::Duration;

/// F17.
pub const STATES: &[Case] = &[
    Case::variant("NOSCRIPT", Expect::HOLD, noscript),
    Case::variant("READONLY", Expect::HOLD.with_errors(), |scene| {
        shortly(scene, &READONLY)
    }),
    Case::variant("READONLY 3 T", Expect::ANYBODY, |scene| {
        for_long(scene, &READONLY)
    }),
    Case::variant("MASTERDOWN", Expect::HOLD.with_errors(), |scene| {
        shortly(scene, &MASTERDOWN)
    }),
    Case::variant("NOREPLICAS", Expect::HOLD.with_errors(), |scene| {
        shortly(scene, &NOREPLICAS)
    }),
    Case::variant("OOM", Expect::HOLD.with_errors().grants(50), oom),
    Case::variant("BUSY", Expect::HOLD.with_errors(), busy),
    Case::variant("LOADING", Expect::HOLD.with_errors(), loading),
];

/// A state that configuration makes.
#[derive(Debug)]
struct State {
    /// The word that answers begin with.
    word: &'static str,
    enter: &'static [&'static [&'static str]],
    leave: &'static [&'static [&'static str]],
}

/// Of somebody who does not answer: nobody listens on this port of a machine by itself.
const NOWHERE: &[&str] = &["REPLICAOF", "127.0.0.1", "1"];

const READONLY: State = State {
    word: "READONLY",
    enter: &[NOWHERE],
    leave: &[&["REPLICAOF", "NO", "ONE"]],
};

const MASTERDOWN: State = State {
    word: "MASTERDOWN",
    enter: &[
        &["CONFIG", "SET", "replica-serve-stale-data", "no"],
        NOWHERE,
    ],
    leave: &[
        &["REPLICAOF", "NO", "ONE"],
        &["CONFIG", "SET", "replica-serve-stale-data", "yes"],
    ],
};

const NOREPLICAS: State = State {
    word: "NOREPLICAS",
    enter: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
    leave: &[&["CONFIG", "SET", "min-replicas-to-write", "0"]],
};

const OOM: State = State {
    word: "OOM",
    enter: &[&["CONFIG", "SET", "maxmemory", "1"]],
    leave: &[&["CONFIG", "SET", "maxmemory", "0"]],
};

/// What a locker may say to its users about a server that is not in a state to serve.
const SAID: [&str; 3] = ["Unavailable", "Timeout", "TooLate"];

fn shortly(scene: &mut Scene, state: &State) -> Result<(), String> {
    scene.start_all(true)?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        let (from, to) = within(scene, state, |scene| {
            scene.work(scene.times.t * 3 / 10);
            Ok(())
        })?;
        let lasted = to - from;
        // A state that lasts longer than a locker can bear shows nothing about a short one.
        let limit = as_micros(scene.times.t / 2);
        scene.expect(lasted < limit, format!("the state lasted for {lasted} µs"));
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    was_met(scene, state.word)?;
    said_so(scene);
    Ok(())
}

fn for_long(scene: &mut Scene, state: &State) -> Result<(), String> {
    scene.start_all(true)?;
    for _ in 0..2 {
        let both = [scene.keep(0)?, scene.keep(1)?];
        scene.work(scene.times.t / 5);
        let (from, _) = within(scene, state, |scene| {
            scene.work(scene.times.t * 3);
            Ok(())
        })?;
        for kept in both {
            match scene.loss(kept, Duration::from_millis(1)) {
                Some(told) => {
                    let limit = scene.times.t + scene.times.t / 10;
                    scene.took("the state to STOP", from, told, Some(limit));
                }
                None => scene.expect(false, "an owner was not told of its loss"),
            }
        }
        scene.work(scene.times.t * 2);
    }
    was_met(scene, state.word)?;
    said_so(scene);
    Ok(())
}

/// The scripts are forgotten all the time: nobody notices.
fn noscript(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let from = micros();
    let end = from + as_micros(scene.times.t * 5);
    while micros() < end {
        send(scene, &[&["SCRIPT", "FLUSH", "SYNC"]])?;
        scene.work(scene.times.t / 50);
    }
    scene.did("scripts are forgotten", from, None);
    was_met(scene, "NOSCRIPT")
}

/// Memory is full. What is held is renewed and given back; what is free is not granted.
fn oom(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    let both = [scene.keep(0)?, scene.keep(1)?];
    scene.work(scene.times.t / 5);
    within(scene, &OOM, |scene| {
        // Longer than a lock lives that is not extended.
        let timing = scene.times.timing();
        scene.work(timing.lock_ttl + timing.extend_every / 2);
        for kept in both {
            let lost = scene.loss(kept, Duration::ZERO);
            scene.expect(lost.is_none(), "a held lock was lost while memory was full");
        }
        // Given back, and granted to nobody until there is memory again.
        let let_go = micros();
        scene.let_go(both[0]);
        scene.work(scene.times.t / 2);
        let records = scene.fleet.log.records();
        let after = |at: u64| at > let_go;
        let released = records.iter().any(|record| {
            after(record.at)
                && matches!(record.event, Event::ReleaseSent { token, .. } if token == both[0].token)
        });
        scene.expect(
            released,
            "a held lock was not given back while memory was full",
        );
        let owner = Servers::of(scene)?
            .holder_of(both[0].key)?
            .command(&["HGET", &Servers::lock(both[0].key), "owner"])
            .map_err(|error| error.to_string())?;
        scene.expect(
            owner.is_empty(),
            "a release did not arrive while memory was full",
        );
        let granted = scene.next_grant(both[0].key, let_go, Duration::ZERO);
        scene.expect(
            granted.is_none(),
            "a free lock was granted while memory was full",
        );
        Ok(())
    })?;
    scene.let_go(both[1]);
    scene.work(scene.times.t);
    was_met(scene, "OOM")?;
    said_so(scene);
    Ok(())
}

/// Somebody's script does not end.
fn busy(scene: &mut Scene) -> Result<(), String> {
    scene.start_all(true)?;
    send(scene, &[&["CONFIG", "SET", "busy-reply-threshold", "50"]])?;
    for round in 0..4 {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        let from = micros();
        let mut connection = Servers::of(scene)?.nodes()[0]
            .admin()
            .map_err(|error| error.to_string())?;
        let endless = thread::spawn(move || {
            let mut script = ::redis::cmd("EVAL");
            script.arg("while true do end").arg(0);
            // It ends by being killed, which is an error.
            let _ = script.query::<()>(&mut connection);
        });
        scene.work(scene.times.t * 3 / 10);
        send(scene, &[&["SCRIPT", "KILL"]])?;
        let _ = endless.join();
        scene.did("an endless script", from, None);
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    was_met(scene, "BUSY")?;
    said_so(scene);
    Ok(())
}

/// The server reads its data anew, and answers nobody meanwhile.
fn loading(scene: &mut Scene) -> Result<(), String> {
    const KEYS: u32 = 20_000;
    // One key of eight takes as long as the shortest sleep: 0.3 s in all.
    const DELAY: &str = "-8";
    scene.start_all(true)?;
    let mut connection = Servers::of(scene)?.nodes()[0]
        .admin()
        .map_err(|error| error.to_string())?;
    let mut filling = ::redis::pipe();
    for number in 0..KEYS {
        filling
            .cmd("SET")
            .arg(format!("filling:{number}"))
            .arg(number);
    }
    filling
        .query::<()>(&mut connection)
        .map_err(|error| error.to_string())?;
    send(scene, &[&["CONFIG", "SET", "key-load-delay", DELAY]])?;
    for round in 0..3 {
        let kept = scene.keep(round % 2)?;
        scene.work(scene.times.t / 5);
        let from = micros();
        send(scene, &[&["DEBUG", "LOADAOF"]])?;
        scene.took("loading", from, micros(), Some(scene.times.t / 2));
        scene.did("loading", from, None);
        scene.work(scene.times.t / 2);
        scene.let_go(kept);
        scene.work(scene.times.t / 2);
    }
    was_met(scene, "LOADING")?;
    said_so(scene);
    Ok(())
}

/// Puts the server into a state, does something, and takes it out again.
fn within(
    scene: &mut Scene,
    state: &State,
    what: impl FnOnce(&mut Scene) -> Result<(), String>,
) -> Result<(u64, u64), String> {
    let from = micros();
    send(scene, state.enter)?;
    let done = what(scene);
    send(scene, state.leave)?;
    scene.did(state.word, from, None);
    done.map(|()| (from, micros()))
}

fn send(scene: &mut Scene, commands: &[&[&str]]) -> Result<(), String> {
    let node = &Servers::of(scene)?.nodes()[0];
    for command in commands {
        node.command(command)
            .map_err(|error| format!("{command:?}: {error}"))?;
    }
    Ok(())
}

/// The server has given this answer.
fn was_met(scene: &mut Scene, word: &str) -> Result<(), String> {
    let field = format!("errorstat_{word}");
    let counted = Servers::of(scene)?.nodes()[0].info("errorstats", &field);
    let count = counted
        .ok()
        .and_then(|text| text.strip_prefix("count=")?.parse::<f64>().ok())
        .unwrap_or_default();
    scene.measure(&format!("answers {word}"), count, None, "");
    scene.expect(count > 0.0, format!("nobody was ever answered {word}"));
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
