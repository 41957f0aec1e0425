//! The `locker` command. See `locker --help`, or the README.

mod args;
mod clock;
mod exit;
mod failure;
mod keeper;
mod run;
mod signals;
mod supervise;
mod terminal;

use clap::Parser;
use exit::Exit;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(exit) = keeper::stage(&arguments) {
        return exit.into();
    }
    let cli = match args::Cli::try_parse() {
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
    let outcome = match &cli.command {
        args::Command::Run(args) => run::run(args),
        _ => Ok(Exit::SUCCESS),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = failure.tell(io::stderr().lock());
            let _ = io::stderr().flush();
            failure.exit.into()
        }
    }
}
