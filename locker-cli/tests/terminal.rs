//! `locker run` on a terminal, under a shell with job control (attack 29).

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Home, PATIENCE, await_that};
use nix::pty::openpty;
use std::fs::File;
use std::io::{Read, Write};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";

/// Works visibly without starting processes: a shell that is just starting one by `vfork` cannot be
/// stopped, under any supervisor or none.
const WORK: &str = "exec 9<> <(:); while :; do echo >> work; read -t .01 -u 9; done";

/// An interactive shell on a terminal of its own, in the folder of a store.
struct Shell {
    home: Home,
    process: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
    /// How much of the screen was looked at.
    seen: usize,
}

impl Shell {
    fn new() -> Self {
        let home = Home::new();
        let pty = openpty(None, None).unwrap();
        let slave = || pty.slave.try_clone().unwrap();
        // `setsid -c` makes stdin the controlling terminal. Bash's own line editor would turn the echo off,
        // and on again only after it has written the newline that `enter` waits for.
        let process = common::with_default_signals("setsid")
            .args([
                "-c",
                "-w",
                "bash",
                "--norc",
                "--noprofile",
                "--noediting",
                "-i",
            ])
            .env("LOCKER_STORE", home.url())
            .env("PS1", "prompt> ")
            .env("LOCKER", env!("CARGO_BIN_EXE_locker"))
            .current_dir(home.path(""))
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let keyboard = File::from(pty.master);
        let mut output = keyboard.try_clone().unwrap();
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let mut shell = Self {
            home,
            process,
            keyboard,
            screen,
            seen: 0,
        };
        shell.expect("prompt> ");
        shell
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// A command line. What the terminal echoes of it is skipped.
    fn enter(&mut self, line: &str) {
        self.types(&format!("{line}\n"));
        self.expect("\n");
    }

    /// Waits until this text appears behind what was seen, and answers what stands between.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen.lock().unwrap().clone();
            if let Some(at) = screen[self.seen..].find(text) {
                let between = screen[self.seen..][..at].to_owned();
                self.seen += at + text.len();
                return between;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{text:?} did not appear; the screen shows {:?}",
                &screen[self.seen..]
            );
            sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    fn expect_code(&mut self, code: i32) {
        self.expect("prompt> ");
        self.enter("echo code=$?");
        self.expect(&format!("code={code}\r\n"));
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_command_reads_the_terminal() {
    let mut shell = Shell::new();
    shell.enter("$LOCKER run k -- cat");
    shell.types("hello\n");
    // Once from the terminal's echo, once from `cat`.
    shell.expect("hello\r\n");
    shell.expect("hello\r\n");
    shell.types(CTRL_D);
    shell.expect_code(0);
}

#[test]
fn ctrl_c_ends_the_command_and_the_shell_has_its_terminal_back() {
    let mut shell = Shell::new();
    shell.enter("$LOCKER run k -- sh -c 'echo go; exec sleep 1000'");
    shell.expect("go");
    shell.types(CTRL_C);
    shell.expect_code(130);
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it() {
    let mut shell = Shell::new();
    shell.enter("$LOCKER run k -- cat");
    shell.types("one\n");
    shell.expect("one\r\none\r\n");
    shell.types(CTRL_Z);
    shell.expect("Stopped");
    shell.expect("prompt> ");
    shell.enter("fg");
    shell.types("two\n");
    shell.expect("two\r\n");
    shell.expect("two\r\n");
    shell.types(CTRL_Z);
    shell.expect("Stopped");
    shell.expect("prompt> ");
    shell.enter("fg");
    shell.types("three\n");
    shell.expect("three\r\n");
    shell.expect("three\r\n");
    shell.types(CTRL_D);
    shell.expect_code(0);
}

#[test]
fn a_job_that_was_stopped_past_its_deadline_is_not_continued() {
    let mut shell = Shell::new();
    shell.enter(&format!(
        "$LOCKER run --liveness-ttl 3 k -- bash -c '{WORK}'"
    ));
    await_that("the command works", || shell.home.lines("work") > 0);
    shell.types(CTRL_Z);
    shell.expect("Stopped");
    let stopped_at = shell.home.lines("work");
    sleep(Duration::from_secs(4));
    shell.enter("fg");
    shell.expect_code(76);
    assert_eq!(shell.home.lines("work"), stopped_at);
}

#[test]
fn a_pager_behind_the_command_keeps_the_terminal() {
    let mut shell = Shell::new();
    let pager = "sh -c 'read line; echo page=$line; read key </dev/tty; echo key=$key'";
    shell.enter(&format!(
        "$LOCKER run k -- sh -c 'sleep .2; echo data' | {pager}"
    ));
    shell.expect("page=data");
    shell.types("q\n");
    shell.expect("key=q");
    shell.expect_code(0);
}

#[test]
fn ctrl_z_and_ctrl_c_reach_a_command_that_writes_to_a_pager() {
    let mut shell = Shell::new();
    shell.enter(&format!("$LOCKER run k -- bash -c '{WORK}' | cat"));
    await_that("the command works", || shell.home.lines("work") > 0);
    shell.types(CTRL_Z);
    shell.expect("Stopped");
    sleep(Duration::from_millis(100));
    let stopped_at = shell.home.lines("work");
    sleep(Duration::from_millis(200));
    assert_eq!(shell.home.lines("work"), stopped_at, "the command works on");
    shell.expect("prompt> ");
    shell.enter("fg");
    await_that("it works again", || shell.home.lines("work") > stopped_at);
    shell.types(CTRL_C);
    shell.expect("prompt> ");
    shell.enter("echo $((40 + 2))");
    shell.expect("42");
}

#[test]
fn a_job_in_the_background_gets_the_terminal_with_fg() {
    let mut shell = Shell::new();
    shell.enter("$LOCKER run k -- cat &");
    shell.expect("prompt> ");
    // Until the shell has learnt of the stop, and that is only when every thread of the job has stopped,
    // its `fg` would continue nothing.
    let begun = Instant::now();
    loop {
        shell.enter("jobs");
        if shell.expect("prompt> ").contains("Stopped") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the job is not stopped");
        sleep(Duration::from_millis(10));
    }
    shell.enter("fg");
    shell.types("hello\n");
    shell.expect("hello\r\n");
    shell.expect("hello\r\n");
    shell.types(CTRL_D);
    shell.expect("prompt> ");
}

/// No shell, so nobody could continue a stopped wrapper: the kernel does not stop it.
#[test]
fn without_job_control_ctrl_z_stops_nothing_for_good() {
    let home = Home::new();
    let pty = openpty(None, None).unwrap();
    let child = common::with_default_signals("setsid")
        .args(["-c", "-w", env!("CARGO_BIN_EXE_locker"), "run", "k", "--"])
        .args(["bash", "-c", WORK])
        .env("LOCKER_STORE", home.url())
        .current_dir(home.path(""))
        .stdin(pty.slave.try_clone().unwrap())
        .stdout(pty.slave.try_clone().unwrap())
        .stderr(pty.slave.try_clone().unwrap())
        .spawn()
        .unwrap();
    let running = common::Running::of(child);
    await_that("the command works", || home.lines("work") > 0);
    let mut keyboard = File::from(pty.master);
    keyboard.write_all(CTRL_Z.as_bytes()).unwrap();
    sleep(Duration::from_millis(300));
    let lines = home.lines("work");
    await_that("the command works on", || home.lines("work") > lines);
    keyboard.write_all(CTRL_C.as_bytes()).unwrap();
    running.end().expect(130);
}
