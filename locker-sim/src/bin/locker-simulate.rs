//! Plays histories of the simulation, or replays one of them: see `locker_sim::command`.
//!
//! It ends with 0, with 1 when a promise was broken, and with 64 when it was not understood.

use locker_sim::command::{USAGE, parse};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away is no reason to complain.
    let mut say = |line: &str| drop(writeln!(out, "{line}"));
    match parse(std::env::args().skip(1)) {
        Ok(command) => command.execute(say),
        Err(why) => {
            say(&format!("{why}\n{USAGE}"));
            ExitCode::from(64)
        }
    }
}
