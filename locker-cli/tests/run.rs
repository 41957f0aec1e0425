//! `locker run`: what it promises on its help page.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Home, await_that};
use nix::sys::signal::Signal;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A holder of the lock `k`, until it is dropped.
fn hold(home: &Home, options: &[&str]) -> common::Running {
    let holder = home.script(options, "echo > held; exec sleep 1000");
    home.await_file("held");
    holder
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let home = Home::new();
    for code in [0, 1, 75, 76, 126, 127, 255] {
        home.script(&[], &format!("exit {code}")).end().expect(code);
    }
}

#[test]
fn a_command_that_a_signal_ended_is_128_and_its_number() {
    let home = Home::new();
    for signal in [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGTERM] {
        let number = signal as i32;
        home.script(&[], &format!("kill -{number} $$"))
            .end()
            .expect(128 + number);
    }
}

#[test]
fn a_command_that_does_not_exist_is_127_and_one_that_cannot_be_executed_126() {
    let home = Home::new();
    fs::write(home.path("text"), "no program").unwrap();
    let missing = home.run(&["run", "k", "--", "no-such-command-anywhere"]);
    assert!(
        missing
            .expect(127)
            .stderr
            .contains("cannot run no-such-command-anywhere")
    );
    let text = home.run(&["run", "k", "--", home.path("text").to_str().unwrap()]);
    assert!(
        text.expect(126).stderr.contains("Permission denied"),
        "{text:?}"
    );
    // The command's own 127 says nothing of the kind.
    assert_eq!(home.script(&[], "exit 127").end().expect(127).stderr, "");
    home.run(&["show", "k"]).expect(1);
}

#[test]
fn stdin_stdout_and_stderr_are_the_commands() {
    let home = Home::new();
    let mut command = home.locker(&["run", "k", "--", "sh", "-c", "cat; echo err >&2"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"in\n").unwrap();
    drop(stdin);
    let outcome = common::Running::of(child).end();
    outcome.expect(0);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("in\n", "err\n")
    );
}

#[test]
fn the_command_is_told_its_key_owner_and_token_and_not_the_store() {
    let home = Home::new();
    let script = r#"echo "$LOCKER_KEY|$LOCKER_TOKEN|$LOCKER_OWNER|$LOCKER_STORE""#;
    let outcome = home.script(&["--trace", "ticket 5"], script).end();
    let fields: Vec<_> = outcome.expect(0).stdout.trim_end().split('|').collect();
    assert_eq!(fields[0], "k");
    assert!(fields[1].parse::<u64>().unwrap() > 1_500_000_000_000_000);
    assert!(
        fields[2].starts_with("k@") && fields[2].ends_with("#ticket 5"),
        "{fields:?}"
    );
    assert_eq!(fields[3], "");
    let passed = home.script(&["--pass-store"], "echo $LOCKER_STORE").end();
    assert_eq!(passed.expect(0).stdout.trim_end(), home.url());
}

#[test]
fn arguments_reach_the_command_as_they_are() {
    let home = Home::new();
    let hostile = [
        "run", "k", "--", "printf", "%s|", "-n", "--", "a b", "$HOME", "", "\u{1b}",
    ];
    assert_eq!(
        home.run(&hostile).expect(0).stdout,
        "-n|--|a b|$HOME||\u{1b}|"
    );
}

#[test]
fn tokens_grow_from_run_to_run() {
    let home = Home::new();
    let tokens: Vec<u64> = (0..5)
        .map(|_| {
            home.script(&[], "echo $LOCKER_TOKEN")
                .end()
                .stdout
                .trim()
                .parse()
                .unwrap()
        })
        .collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn who_finds_the_lock_held_is_told_by_whom() {
    let home = Home::new();
    let holder = hold(&home, &["--trace", "ticket 5"]);
    let outcome = home.script(&[], "echo > second").end();
    outcome.expect(75);
    assert!(!home.path("second").exists());
    for part in [
        "owner",
        "host",
        &format!("pid    {}", holder.pid()),
        "since",
        "ticket 5",
        "token",
    ] {
        assert!(
            outcome.stderr.contains(part),
            "{part} is missing in {}",
            outcome.stderr
        );
    }
    assert_eq!(outcome.stdout, "");
}

#[test]
fn busy_can_have_another_code_or_none() {
    let home = Home::new();
    let _holder = hold(&home, &[]);
    home.script(&["-E", "9"], ":").end().expect(9);
    let skipped = home.script(&["-q"], "echo ran").end();
    skipped.expect(0);
    assert_eq!((skipped.stdout.as_str(), skipped.stderr.as_str()), ("", ""));
}

#[test]
fn a_wait_ends_after_its_seconds() {
    let home = Home::new();
    let _holder = hold(&home, &[]);
    let begun = Instant::now();
    let outcome = home.script(&["-w", "0.5"], ":").end();
    outcome.expect(75);
    assert!(outcome.stderr.contains("still held"), "{outcome:?}");
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_millis(500) && waited < Duration::from_secs(5),
        "{waited:?}"
    );
}

#[test]
fn a_wait_can_be_interrupted() {
    let home = Home::new();
    let _holder = hold(&home, &[]);
    let waiter = home.script(&["-w", "inf"], "echo > second");
    await_that("it waits", || {
        home.run(&["ps"])
            .stdout
            .contains(&format!("/{}.", waiter.pid()))
    });
    waiter.signal(Signal::SIGTERM);
    waiter.end().expect(143);
    assert!(!home.path("second").exists());
}

#[test]
fn waiters_run_one_after_another() {
    let home = Home::new();
    let script = "test ! -e busy || echo >> overlap; echo > busy; sleep 0.02; rm busy; echo >> ran";
    let waiters: Vec<_> = (0..6)
        .map(|_| home.script(&["-w", "inf"], script))
        .collect();
    for waiter in waiters {
        waiter.end().expect(0);
    }
    assert_eq!((home.lines("ran"), home.lines("overlap")), (6, 0));
}

#[test]
fn signals_are_passed_on_to_the_whole_group() {
    let home = Home::new();
    let numbers = [
        (Signal::SIGINT, "INT"),
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
    ];
    for (signal, name) in numbers {
        let home = Home::new();
        let trap = format!("trap 'echo {name} >> got; exit 9' {name}");
        // The background shell of a script ignores INT and QUIT, so the other member is in front.
        let script = format!(
            "{trap}; sh -c \"trap 'echo {name} >> got2; exit' {name}; echo > ready; \
             while :; do sleep 0.01; done\"; exit 9"
        );
        let wrapper = home.script(&[], &script);
        home.await_file("ready");
        wrapper.signal(signal);
        wrapper.end().expect(9);
        assert_eq!((home.lines("got"), home.lines("got2")), (1, 1), "{name}");
    }
    home.run(&["show", "k"]).expect(1);
}

/// The time was up for what the command had left behind, and not for itself.
#[test]
fn a_command_that_ended_in_time_keeps_its_code_whatever_it_leaves_behind() {
    let home = Home::new();
    let stubborn = "setsid sh -c \"trap : TERM; echo > ready; while :; do sleep 0.01; done\" &
                    while [ ! -e ready ]; do sleep 0.01; done; exit 9";
    let options = ["--timeout", "1", "--grace", "3"];
    let begun = Instant::now();
    home.script(&options, stubborn).end().expect(9);
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(2),
        "the time was not up: {took:?}"
    );
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_124() {
    let home = Home::new();
    let begun = Instant::now();
    let outcome = home.script(&["--timeout", "0.3"], "sleep 1000").end();
    assert!(outcome.expect(124).stderr.contains("--timeout"));
    assert!(begun.elapsed() < Duration::from_secs(5));
    let stubborn = "trap : TERM; while :; do sleep 0.01; done";
    home.script(&["--timeout", "0.1", "--grace", "0.2"], stubborn)
        .end()
        .expect(124);
    home.run(&["show", "k"]).expect(1);
}

#[test]
fn min_hold_keeps_the_lock_after_the_command() {
    let home = Home::new();
    let begun = Instant::now();
    // Longer than another command takes to be refused.
    let wrapper = home.script(&["--min-hold", "3"], "echo > done");
    home.await_file("done");
    home.script(&[], ":").end().expect(75);
    wrapper.end().expect(0);
    assert!(begun.elapsed() >= Duration::from_secs(3));
    home.script(&[], ":").end().expect(0);
}

#[test]
fn verbose_tells_what_happens_on_stderr() {
    let home = Home::new();
    let outcome = home.script(&["-v"], "exit 3").end();
    for part in ["acquired k@", "exited with 3", "released"] {
        assert!(outcome.stderr.contains(part), "{outcome:?}");
    }
    outcome.expect(3);
}

/// Attack 15: an operator asks for the lock; the owner stops first.
#[test]
fn a_lock_that_is_asked_back_ends_its_command_with_76() {
    let home = Home::new();
    let holder = hold(&home, &["--liveness-ttl", "2"]);
    let show = home.run(&["--json", "show", "k"]);
    let shown: serde_json::Value = serde_json::from_str(&show.expect(0).stdout).unwrap();
    let owner = shown["owner"].as_str().unwrap();
    home.run(&["release", "k", "--owner", owner]).expect(0);
    // The owner has not stopped yet: the lock is not free, and it shows.
    let outcome = holder.end();
    assert!(
        outcome
            .expect(76)
            .stderr
            .contains("an operator asked for it back"),
        "{outcome:?}"
    );
    home.script(&[], ":").end().expect(0);
}

#[test]
fn a_lock_that_was_deleted_under_its_command_is_lost_and_the_code_can_be_moved() {
    let home = Home::new();
    let script = "echo > held; while [ ! -e go ]; do sleep 0.01; done; exit 0";
    let holder = home.script(&["--lost-exit-code", "33"], script);
    home.await_file("held");
    let show = home.run(&["--json", "show", "k"]);
    let shown: serde_json::Value = serde_json::from_str(&show.stdout).unwrap();
    let owner = shown["owner"].as_str().unwrap();
    home.run(&["release", "k", "--owner", owner, "--now"])
        .expect(0);
    // Before the next recheck the owner cannot know; but its release says so.
    fs::write(home.path("go"), "").unwrap();
    holder.end().expect(33);
}

/// A pager that nobody scrolls must not cost a healthy command its lock.
#[test]
fn a_stderr_that_nobody_reads_does_not_stop_the_wrapper() {
    let home = Home::new();
    // For longer than the liveness TTL, which a busy machine has to report in.
    let script = "head -c 100000 /dev/zero >&2 & sleep 4; kill $!; exit 3";
    let options = [
        "run",
        "-v",
        "--liveness-ttl",
        "3",
        "k",
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut command = home.locker(&options);
    let mut wrapper = command.env("LOCKER_LOG", "trace").spawn().unwrap();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = wrapper.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < common::PATIENCE, "it stands still");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(3));
}

#[test]
fn an_unwritable_stderr_changes_nothing() {
    let home = Home::new();
    let mut command = home.locker(&["run", "-v", "k", "--", "sh", "-c", "exit 3"]);
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let child = command.stderr(full).spawn().unwrap();
    common::Running::of(child).end().expect(3);
}
