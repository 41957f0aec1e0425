//! What the command does on every store that has a server, and how it refuses what is wrong.

use super::{Home, Outcome, Running};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A password, which no output ever contains.
pub const SECRET: &str = "s3cret";

/// The limit of one question, and as much again for the process itself on a busy machine.
pub const IN_TIME: Duration = Duration::from_secs(10);
/// `run` waits until the locker has started, at most 15 s.
pub const STARTED: Duration = Duration::from_secs(20);

pub fn hold(home: &Home, key: &str) -> Running {
    let script = "echo > held; exec sleep 1000";
    let running = home
        .locker(&["run", "--trace", "ticket 5", key, "--", "sh", "-c", script])
        .spawn();
    let running = Running::of(running.unwrap());
    home.await_file("held");
    running
}

pub fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(outcome.stdout.lines().next().unwrap()).unwrap()
}

/// One clear error of three lines, without the password.
#[track_caller]
pub fn refused(outcome: &Outcome, code: i32, what: &str) {
    outcome.expect(code);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{outcome:#?}");
    assert!(lines[0].starts_with("locker: "), "{outcome:#?}");
    assert!(lines[0].contains(what), "no {what:?}: {outcome:#?}");
    assert!(lines[1].starts_with("  lock: "), "{outcome:#?}");
    assert!(lines[2].starts_with("  hint: "), "{outcome:#?}");
    assert!(!outcome.stderr.contains(SECRET), "{outcome:#?}");
    assert!(!outcome.stdout.contains(SECRET), "{outcome:#?}");
}

/// The same by every command that asks the store, each of them in time.
#[track_caller]
pub fn refused_by_all(url: &str, code: i32, what: &str) {
    let home = Home::on(url);
    for arguments in [
        &["run", "k", "--", "touch", "it-ran"][..],
        &["list"],
        &["show", "k"],
        &["ps"],
        &["wait", "k"],
        &["release", "k", "--owner", "k@h/1.1.1"],
        &["migrate"],
    ] {
        let limit = if arguments[0] == "run" {
            STARTED
        } else {
            IN_TIME
        };
        let asked = Instant::now();
        let outcome = home.run(arguments);
        assert!(asked.elapsed() < limit, "{arguments:?}: {outcome:#?}");
        refused(&outcome, code, what);
    }
    let doctor = home.run(&["doctor"]);
    doctor.expect(code);
    assert!(doctor.stdout.contains("BAD  store"), "{doctor:#?}");
    assert!(!format!("{doctor:?}").contains(SECRET), "{doctor:#?}");
    assert!(!home.path("it-ran").exists(), "the command was run");
}

/// What every deployment must do for its users.
pub fn every_command_works(home: &Home) {
    home.run(&["migrate"]).expect(0);
    home.run(&["show", "k"]).expect(1);
    let holder = hold(home, "k");

    let shown = json(home.run(&["--json", "show", "k"]).expect(0));
    assert_eq!(shown["pid"], holder.pid().as_raw());
    assert_eq!(
        (&shown["trace"], &shown["held"]),
        (&"ticket 5".into(), &true.into())
    );
    let owner = shown["owner"].as_str().unwrap();
    let listed = json(home.run(&["--json", "list"]).expect(0));
    assert_eq!(listed["owner"], owner);
    home.run(&["list", "other"]).expect(0);
    let living = home.run(&["ps"]);
    let process = format!("/{}.", holder.pid());
    assert!(living.expect(0).stdout.contains(&process), "{living:#?}");
    let doctor = home.run(&["doctor"]);
    assert!(doctor.expect(0).stdout.contains("1 held"), "{doctor:#?}");

    home.run(&["run", "k", "--", "true"]).expect(75);
    home.run(&["wait", "-w", "0.2", "k"]).expect(75);
    let waiter = Running::of(home.locker(&["wait", "-w", "60", "k"]).spawn().unwrap());
    let next = Running::of(
        home.locker(&[
            "run",
            "-w",
            "60",
            "k",
            "--",
            "sh",
            "-c",
            "echo $LOCKER_TOKEN",
        ])
        .spawn()
        .unwrap(),
    );
    home.run(&["release", "k", "--owner", owner]).expect(0);
    holder.end().expect(76);
    let token: u64 = next.end().expect(0).stdout.trim().parse().unwrap();
    assert!(token > shown["token"].as_u64().unwrap());
    waiter.end().expect(0);
    home.run(&["release", "k", "--owner", owner]).expect(1);
    home.run(&["run", "k", "--", "sh", "-c", "exit 7"])
        .expect(7);
    assert_eq!(home.run(&["--json", "list"]).expect(0).stdout, "");
}
