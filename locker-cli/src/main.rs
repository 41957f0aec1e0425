//! The `locker` command. See `locker --help`, or the README.

mod clock;
mod exit;
mod keeper;
mod signals;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(exit) = keeper::stage(&arguments) {
        return exit.into();
    }
    ExitCode::from(64)
}
