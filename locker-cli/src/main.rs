//! The `locker` command. See `locker --help`, or the README.

mod args;
mod clock;
mod commands;
mod exit;
mod failure;
mod keeper;
mod output;
mod run;
mod signals;
mod stderr;
mod store;
mod supervise;
mod terminal;

use exit::Exit;
use std::io;
use std::panic;
use std::process::{self, ExitCode};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let typed: Vec<_> = std::env::args_os().collect();
    if let Some(exit) = keeper::stage(typed.get(1..).unwrap_or_default()) {
        return exit.into();
    }
    let cli = match args::Cli::understand(&typed) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                Exit::USAGE
            } else {
                Exit::SUCCESS
            }
            .into();
        }
    };
    die_at_once_on_panic();
    log();
    match commands::dispatch(&cli.command, &cli.global) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let err = io::stderr().lock();
            // Nobody who closed stderr wants to hear of it.
            let _ = if cli.global.json {
                failure.tell_json(err)
            } else {
                failure.tell(err)
            };
            failure.exit.into()
        }
    }
}

/// Unwinding would drop the guard, and so release the lock, while the command still runs. A dead
/// wrapper's lock, on the other hand, is in its keeper's hands.
fn die_at_once_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        tell(what);
        process::abort();
    }));
}

/// What the library tells its operators goes to stderr; `LOCKER_LOG` says how much of it.
fn log() {
    let filter = EnvFilter::try_from_env("LOCKER_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| stderr::Stderr)
        .init();
}
