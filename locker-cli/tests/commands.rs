//! The commands that look: `list`, `show`, `ps`, `wait`, `release`, `doctor`, and the two that print
//! what packagers need.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Home, Running, await_that};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;

fn hold(home: &Home, key: &str) -> Running {
    let script = "echo > \"$0\"; exec sleep 1000";
    let file = format!("held-{}", key.replace('/', "-"));
    let arguments = [
        "run", "--trace", "ticket 5", key, "--", "sh", "-c", script, &file,
    ];
    let running = Running::of(home.locker(&arguments).spawn().unwrap());
    home.await_file(&file);
    running
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn list_shows_held_locks_by_prefix() {
    let home = Home::new();
    let _locks = [hold(&home, "a/1"), hold(&home, "a/2"), hold(&home, "b")];
    let keys = |prefix: &[&str]| -> Vec<String> {
        let outcome = home.run(&[&["--json", "list"], prefix].concat());
        let lines = outcome.expect(0).stdout.lines().map(json);
        lines
            .map(|line| line["key"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(keys(&[]), ["a/1", "a/2", "b"]);
    assert_eq!(keys(&["a/"]), ["a/1", "a/2"]);
    assert!(keys(&["c"]).is_empty());
    let table = home.run(&["list"]).stdout;
    assert!(
        table.starts_with("KEY") && table.contains("ticket 5"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 4);
}

#[test]
fn show_says_who_holds_a_lock() {
    let home = Home::new();
    home.run(&["show", "k"]).expect(1);
    assert_eq!(
        json(&home.run(&["--json", "show", "k"]).expect(1).stdout)["held"],
        false
    );
    let holder = hold(&home, "k");
    let shown = json(&home.run(&["--json", "show", "k"]).expect(0).stdout);
    assert_eq!(shown["key"], "k");
    assert_eq!(shown["held"], true);
    assert_eq!(shown["pid"], holder.pid().as_raw());
    assert_eq!(shown["trace"], "ticket 5");
    assert_eq!(shown["alive"], true);
    assert_eq!(shown["asked_back"], false);
    for field in [
        "owner",
        "process",
        "host",
        "token",
        "acquired_at",
        "extended_at",
        "free_in_ms",
    ] {
        assert!(!shown[field].is_null(), "{field}");
    }
    let text = home.run(&["show", "k"]).stdout;
    assert!(
        text.contains("ticket 5") && text.contains("token"),
        "{text}"
    );
}

#[test]
fn ps_shows_living_processes() {
    let home = Home::new();
    assert_eq!(home.run(&["--json", "ps"]).expect(0).stdout, "");
    let holder = hold(&home, "k");
    let shown = json(&home.run(&["--json", "ps"]).expect(0).stdout);
    assert_eq!(shown["pid"], holder.pid().as_raw());
    assert!(home.run(&["ps"]).stdout.contains(&holder.pid().to_string()));
}

#[test]
fn wait_ends_when_the_lock_is_free() {
    let home = Home::new();
    home.run(&["wait", "k"]).expect(0);
    home.run(&["wait", "-w", "0", "k"]).expect(0);
    let holder = hold(&home, "k");
    home.run(&["wait", "-w", "0", "k"]).expect(75);
    home.run(&["wait", "-w", "0.2", "k"]).expect(75);
    let mut waiter = Running::of(home.locker(&["wait", "k"]).spawn().unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiter.has_ended());
    holder.signal(Signal::SIGTERM);
    holder.end().expect(143);
    waiter.end().expect(0);
}

#[test]
fn wait_sees_a_killed_owner() {
    let home = Home::new();
    let holder = hold(&home, "k");
    let waiter = Running::of(home.locker(&["wait", "k"]).spawn().unwrap());
    holder.signal(Signal::SIGKILL);
    waiter.end().expect(0);
}

#[test]
fn release_of_another_owners_lock_changes_nothing() {
    let home = Home::new();
    let _holder = hold(&home, "k");
    let before = home.run(&["--json", "show", "k"]).stdout;
    for now in [&[][..], &["--now"]] {
        let arguments = [&["release", "k", "--owner", "k@other/1.2.3"], now].concat();
        let outcome = home.run(&arguments);
        assert!(
            outcome.expect(1).stdout.contains("nothing was changed"),
            "{outcome:?}"
        );
    }
    let after = home.run(&["--json", "show", "k"]).stdout;
    assert_eq!(json(&before)["owner"], json(&after)["owner"]);
    assert_eq!(json(&after)["asked_back"], false);
    home.run(&["release", "free", "--owner", "free@h/1.2.3"])
        .expect(1);
}

#[test]
fn namespaces_do_not_see_each_other() {
    let home = Home::new();
    let _holder = hold(&home, "k");
    home.run(&["--namespace", "other", "show", "k"]).expect(1);
    home.run(&["--namespace", "other", "run", "k", "--", "true"])
        .expect(0);
    home.run(&["run", "k", "--", "true"]).expect(75);
}

#[test]
fn doctor_looks_at_machine_and_store() {
    let home = Home::new();
    let outcome = home.run(&["doctor"]);
    assert!(!outcome.expect(0).stdout.contains("BAD"), "{outcome:?}");
    let lines = home.run(&["--json", "doctor"]).stdout;
    assert!(
        lines.lines().map(json).all(|check| check["ok"] == true),
        "{lines}"
    );
    let outcome = home.run(&["--store", "sqlite:no/such/x.db", "doctor"]);
    assert!(outcome.expect(69).stdout.contains("BAD"), "{outcome:?}");
}

#[test]
fn migrate_says_that_the_store_is_ready() {
    let home = Home::new();
    home.run(&["migrate", "--check"]).expect(78);
    assert!(!home.path("locker.db").exists(), "a question made a store");
    assert!(home.run(&["migrate"]).expect(0).stdout.contains("is ready"));
    home.run(&["migrate", "--check"]).expect(0);
    let printed = home.run(&["migrate", "--print"]);
    assert!(printed.expect(0).stdout.contains("nothing has to be done"));
}

#[test]
fn the_default_store_is_in_the_state_directory_and_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    for (variable, folder) in [
        ("XDG_STATE_HOME", "locker"),
        ("HOME", ".local/state/locker"),
    ] {
        let home = Home::new();
        let mut command = home.locker(&["run", "k", "--", "true"]);
        command
            .env_remove("LOCKER_STORE")
            .env_remove("XDG_STATE_HOME")
            .env_remove("HOME");
        let child = command.env(variable, home.path("")).spawn().unwrap();
        Running::of(child).end().expect(0);
        let folder = home.path(folder);
        assert!(folder.join("locker.db").exists());
        let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}

#[test]
fn completions_and_manual_page_are_printed() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(
            home.run(&["completions", shell])
                .expect(0)
                .stdout
                .contains("min-hold"),
            "{shell}"
        );
    }
    let page = home.run(&["man"]);
    for part in [
        ".TH locker",
        "LOCKER RUN",
        "EXIT STATUS",
        "128+N",
        "LOCKER_STORE",
        "conflict",
    ] {
        assert!(page.expect(0).stdout.contains(part), "{part}");
    }
    assert!(!page.stdout.contains("__keeper"));
}

#[test]
fn help_shows_the_table_of_exit_codes() {
    let home = Home::new();
    for arguments in [vec!["--help"], vec!["run", "--help"]] {
        let help = home.run(&arguments).stdout;
        for code in [
            "64", "69", "75", "76", "77", "78", "124", "126", "127", "128+N",
        ] {
            assert!(
                help.contains(&format!("\n  {code} ")),
                "{code} is missing in {help}"
            );
        }
    }
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    let home = Home::new();
    let mut command = home.locker(&["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let outcome = Running::of(child).end();
    outcome.expect(0);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn what_others_chose_does_not_command_the_terminal() {
    let home = Home::new();
    let script = "echo > held; exec sleep 1000";
    let arguments = [
        "run",
        "--trace",
        "\u{1b}[2J",
        "k\u{1b}",
        "--",
        "sh",
        "-c",
        script,
    ];
    let _holder = Running::of(home.locker(&arguments).spawn().unwrap());
    home.await_file("held");
    for arguments in [
        vec!["list"],
        vec!["show", "k\u{1b}"],
        vec!["--json", "list"],
    ] {
        let outcome = home.run(&arguments);
        assert!(!outcome.expect(0).stdout.contains('\u{1b}'), "{outcome:?}");
    }
    await_that("busy is told", || {
        let busy = home.run(&["run", "k\u{1b}", "--", "true"]);
        busy.status.code() == Some(75) && !busy.stderr.contains('\u{1b}')
    });
}
