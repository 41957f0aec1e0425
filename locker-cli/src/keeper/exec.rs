//! The exec stage: the last steps that only the command's own process can take.
//!
//! Between `fork` and `exec` no safe Rust can run, so the keeper starts this stage of the same
//! binary instead. It becomes the command: same process, same group, same parent. Its stdin is the
//! keeper's socket, over which the command's own stdin arrives.

use super::wire::{self, Exec, ExecFailed};
use crate::signals;
use crate::terminal;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stdin, getppid};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Becomes the command. It returns only if that failed.
pub(super) fn become_command(argv: &[OsString]) -> io::Error {
    // The copy is close-on-exec: its end tells the keeper that the command runs.
    let socket = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => return error,
    };
    let error = match prepare(&socket, argv) {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    };
    let errno = error.raw_os_error().unwrap_or(0);
    // If the keeper is gone, nobody needs to know.
    let _ = wire::send(&socket, &ExecFailed { errno }, None);
    error
}

fn prepare(socket: impl AsFd, argv: &[OsString]) -> io::Result<Command> {
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let (order, stdin) = wire::receive::<Exec>(&socket, true)?.ok_or_else(gone)?;
    // First the death signal, then the question whether the parent still lives: the other way
    // round, a keeper that dies in between would leave the command behind.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != order.keeper {
        return Err(gone());
    }
    if let Some(stdin) = stdin {
        dup2_stdin(&stdin)?;
    }
    if order.start.terminal {
        // If it fails, the command runs in the background, which is what it would do without us.
        let _ = terminal::give_to(nix::unistd::getpgrp());
    }
    signals::unblock(&order.start.unblock)?;
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments);
    for name in &order.start.unset {
        command.env_remove(name);
    }
    command.envs(order.start.set.iter().map(|(name, value)| (name, value)));
    Ok(command)
}
