//! The keeper: nothing of a command outlives its lock (attacks 12 and 35).

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Home, await_that, children, lives, state};
use nix::sys::signal::{Signal, kill, killpg};
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// A command with everything that has ever escaped: a grandchild, a daemon in a session of its own,
/// one that ignores TERM. Each writes its number and then works.
const FAMILY: &str = r#"
    work() { while :; do echo x >> "$1.work"; sleep 0.01; done; }
    (echo $(exec sh -c 'echo $PPID') > grandchild; work grandchild) &
    setsid sh -c 'echo $$ > daemon; while :; do echo x >> daemon.work; sleep 0.01; done' &
    (trap : TERM; echo $(exec sh -c 'echo $PPID') > stubborn; work stubborn) &
    echo $$ > leader; work leader
"#;

const NAMES: [&str; 4] = ["leader", "grandchild", "daemon", "stubborn"];

/// Those of the family, once all of them work.
fn family(home: &Home) -> Vec<nix::unistd::Pid> {
    for name in NAMES {
        await_that(name, || home.lines(&format!("{name}.work")) > 0);
    }
    NAMES.map(|name| home.await_pid(name)).to_vec()
}

/// Attack 35 (a), (b): kill -9 of the wrapper.
#[test]
fn everybody_dies_with_a_killed_wrapper() {
    let home = Home::new();
    let wrapper = home.script(&[], FAMILY);
    let family = family(&home);
    let keeper = wrapper.keeper();
    wrapper.signal(Signal::SIGKILL);
    await_that("the keeper ends", || !lives(keeper));
    for pid in family {
        assert!(!lives(pid), "{pid} has outlived the keeper");
    }
}

/// Attack 12 (d), 35 (d): the keeper holds the descriptor by which the store knows that the owner
/// lives, as a duplicate (the same open file, so the same lock) and until its own end.
#[test]
fn the_keeper_holds_the_liveness_descriptor_and_the_command_does_not() {
    let home = Home::new();
    let wrapper = home.script(&[], "echo > ready; exec sleep 1000");
    home.await_file("ready");
    let holds = |pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut links = descriptors
            .flatten()
            .filter_map(|link| fs::read_link(link.path()).ok());
        links.any(|file| file.ends_with("locker.db.alive"))
    };
    let (keeper, command) = (wrapper.keeper(), wrapper.command());
    assert!(holds(wrapper.pid()) && holds(keeper) && !holds(command));
}

/// The kernel continues a stopped keeper whose wrapper dies (its group is an orphan then), so not
/// even that lets the command outlive its lock.
#[test]
fn everybody_dies_even_if_the_keeper_was_stopped_when_the_wrapper_was_killed() {
    let home = Home::new();
    let wrapper = home.script(&[], FAMILY);
    let family = family(&home);
    let keeper = wrapper.keeper();
    let waiter = home.script(&["-w", "30"], "echo > second");
    // The wrapper first, or it would continue its keeper.
    wrapper.signal(Signal::SIGSTOP);
    kill(keeper, Signal::SIGSTOP).unwrap();
    await_that("the keeper is stopped", || state(keeper) == Some('T'));
    wrapper.signal(Signal::SIGKILL);
    drop(wrapper);
    waiter.end().expect(0);
    for pid in family {
        assert!(!lives(pid), "{pid} has outlived its lock");
    }
}

/// Attack 35 (b), (g) and 12 (c): kill -9 of the keeper; its orphans are the wrapper's.
#[test]
fn everybody_dies_with_a_killed_keeper_and_the_lock_is_lost() {
    let home = Home::new();
    let wrapper = home.script(&[], FAMILY);
    let family = family(&home);
    kill(wrapper.keeper(), Signal::SIGKILL).unwrap();
    let outcome = wrapper.end();
    outcome.expect(76);
    for pid in family {
        assert!(!lives(pid), "{pid} has outlived the wrapper");
    }
}

/// Attack 12: what the command leaves behind ends before the lock is released.
#[test]
fn what_a_command_leaves_behind_is_ended_before_the_wrapper_ends() {
    let home = Home::new();
    let names = NAMES.join(" ");
    let all_work =
        format!("for name in {names}; do while [ ! -s $name.work ]; do sleep 0.01; done; done");
    let script = format!("({FAMILY}) & {all_work}; exit 3");
    let wrapper = home.script(&["--grace", "0.3"], &script);
    let family = family(&home);
    wrapper.end().expect(3);
    for pid in family {
        assert!(!lives(pid), "{pid} was left behind");
    }
}

#[test]
fn what_a_command_leaves_behind_is_asked_before_it_is_killed() {
    let home = Home::new();
    let daemon = "trap 'echo asked > asked; exit' TERM; echo > ready; while :; do sleep 0.01; done";
    let script = format!("setsid sh -c \"{daemon}\" & while [ ! -e ready ]; do sleep 0.01; done");
    home.script(&["--grace", "20"], &script).end().expect(0);
    assert_eq!(home.await_file("asked"), "asked");
}

/// The lock goes on being extended, for longer than it is valid at any moment; so the whole grace is there.
#[test]
fn the_grace_may_be_longer_than_a_lock_is_valid_without_a_report() {
    let home = Home::new();
    let slow = "trap 'sleep 5; echo done > done; exit 6' TERM; while :; do sleep 0.01; done";
    let options = ["--liveness-ttl", "3", "--timeout", "0.5", "--grace", "60"];
    home.script(&options, slow).end().expect(124);
    assert_eq!(home.await_file("done"), "done");
}

/// Attack 35 (f): zombies that nobody reaps keep no lock.
#[test]
fn zombies_of_the_group_do_not_keep_the_lock() {
    let home = Home::new();
    // The parent of the zombie never waits; the zombie is in the command's group.
    let script = "(exec sh -c 'sh -c : & exec sleep 0.3') & exit 4";
    home.script(&["--grace", "20"], script).end().expect(4);
}

/// Attack 12 (a): the wrapper alone is stopped; the keeper keeps the deadline by itself.
#[test]
fn a_stopped_wrapper_loses_its_command_at_the_deadline() {
    let home = Home::new();
    let wrapper = home.script(&["--liveness-ttl", "3"], FAMILY);
    let family = family(&home);
    let keeper = wrapper.keeper();
    wrapper.signal(Signal::SIGSTOP);
    await_that("the keeper ends", || !lives(keeper));
    for pid in family {
        assert!(!lives(pid), "{pid} has outlived the deadline");
    }
    wrapper.signal(Signal::SIGCONT);
    wrapper.end().expect(76);
}

/// S12: wrapper and keeper are both stopped; the kernel's own timer ends the keeper, and the
/// keeper's end the command. What is orphaned by that is ended as soon as the wrapper goes on.
#[test]
fn a_stopped_keeper_does_not_keep_the_command_past_the_deadline() {
    let home = Home::new();
    let wrapper = home.script(&["--liveness-ttl", "3"], FAMILY);
    let family = family(&home);
    let keeper = wrapper.keeper();
    wrapper.signal(Signal::SIGSTOP);
    kill(keeper, Signal::SIGSTOP).unwrap();
    await_that("the command ends", || !lives(family[0]));
    wrapper.signal(Signal::SIGCONT);
    wrapper.end().expect(76);
    for pid in family {
        assert!(!lives(pid), "{pid} has outlived the wrapper");
    }
}

#[test]
fn a_keeper_that_somebody_stops_is_continued() {
    let home = Home::new();
    let script = "while [ ! -e go ]; do sleep 0.01; done; exit 5";
    let wrapper = home.script(&[], script);
    wrapper.command();
    kill(wrapper.keeper(), Signal::SIGSTOP).unwrap();
    fs::write(home.path("go"), "").unwrap();
    wrapper.end().expect(5);
}

/// Attack 35 (c): a stop or an end sent to the wrapper's group does not reach the keeper.
#[test]
fn the_keeper_is_in_no_group_that_anybody_signals() {
    let home = Home::new();
    let wrapper = home.script(&[], "sleep 1000");
    let (keeper, command) = (wrapper.keeper(), wrapper.command());
    let group = |pid| nix::unistd::getpgid(Some(pid)).unwrap();
    assert_ne!(group(keeper), group(wrapper.pid()));
    assert_ne!(group(keeper), group(command));
    assert_eq!(group(command), command);
    killpg(command, Signal::SIGSTOP).unwrap();
    await_that("the command is stopped", || state(command) == Some('T'));
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGTSTP,
    ] {
        kill(keeper, signal).unwrap();
    }
    sleep(Duration::from_millis(50));
    assert!(lives(keeper) && state(keeper) != Some('T'));
    wrapper.signal(Signal::SIGKILL);
    await_that("the stopped command dies", || !lives(command));
}

/// Attack 35 (e): were an end of the socket or the liveness descriptor to leak, neither would ever
/// be closed.
#[test]
fn the_command_inherits_no_descriptor() {
    let home = Home::new();
    // Without a shell, which would have descriptors of its own.
    let outcome = home.run(&["run", "k", "--", "ls", "-l", "/proc/self/fd"]);
    let lines = outcome
        .expect(0)
        .stdout
        .lines()
        .filter(|line| line.contains("->"));
    let leaked: Vec<_> = lines
        .filter(|line| line.contains("socket") || line.contains("locker.db"))
        .collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
}

#[test]
fn the_command_finds_signals_as_the_wrapper_found_them() {
    let home = Home::new();
    let outcome = home.run(&[
        "run",
        "k",
        "--",
        "grep",
        "-E",
        "Sig(Blk|Ign)",
        "/proc/self/status",
    ]);
    let mine = common::with_default_signals("grep")
        .args(["-E", "Sig(Blk|Ign)", "/proc/self/status"])
        .output()
        .unwrap();
    assert_eq!(
        outcome.expect(0).stdout,
        String::from_utf8(mine.stdout).unwrap()
    );
}

/// `nohup locker run …`: what was ignored stays ignored, for wrapper and command.
#[test]
fn a_hangup_that_was_ignored_stays_ignored() {
    let home = Home::new();
    let binary = env!("CARGO_BIN_EXE_locker");
    let script = "echo > ready; sleep 0.3; exit 6";
    let child = std::process::Command::new("sh")
        .args([
            "-c",
            "trap '' HUP; exec \"$0\" run k -- sh -c \"$1\"",
            binary,
            script,
        ])
        .env("LOCKER_STORE", home.url())
        .current_dir(home.path(""))
        .spawn()
        .unwrap();
    let wrapper = common::Running::of(child);
    home.await_file("ready");
    wrapper.signal(Signal::SIGHUP);
    wrapper.end().expect(6);
}

/// Some daemons start their children with SIGCHLD ignored; then the kernel keeps no exit codes.
#[test]
fn the_exit_code_is_known_even_where_ends_of_children_are_ignored() {
    let home = Home::new();
    let binary = env!("CARGO_BIN_EXE_locker");
    let child = std::process::Command::new("env")
        .args([
            "--ignore-signal=CHLD",
            binary,
            "run",
            "k",
            "--",
            "sh",
            "-c",
            "exit 3",
        ])
        .env("LOCKER_STORE", home.url())
        .spawn()
        .unwrap();
    common::Running::of(child).end().expect(3);
}

#[test]
fn nothing_runs_as_long_as_there_is_no_lock() {
    let home = Home::new();
    let holder = home.script(&[], "echo > ready; sleep 1000");
    home.await_file("ready");
    let waiter = home.script(&["-w", "30"], "echo > second");
    let keeper = waiter.keeper();
    sleep(Duration::from_millis(200));
    assert!(children(keeper).is_empty());
    assert!(!home.path("second").exists());
    drop(holder);
    waiter.end().expect(0);
}
