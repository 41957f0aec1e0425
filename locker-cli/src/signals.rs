//! Which signals the wrapper takes in, and how it stops itself.
//!
//! Signals are blocked and read from a descriptor, never handled: no handler runs at an odd moment,
//! the keeper is born with them blocked, and no thread can be hit by one.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use tokio::runtime::Runtime;
use tokio::signal::unix::SignalKind;

/// Passed on to the command's group.
pub(crate) const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Not passed on, but not to be missed either: Ctrl-Z, the end of the keeper, and access to a
/// terminal from the background (which is how the terminal is taken back).
const OWN: [Signal; 4] = [
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCHLD,
];

/// The signals that this process blocked for itself.
#[derive(Debug, Clone)]
pub(crate) struct Blocked {
    /// All of them.
    pub(crate) set: SigSet,
    /// Those that were not blocked before: what the command shall find unblocked.
    pub(crate) ours: Vec<i32>,
}

/// Blocks what this process wants to read from a descriptor.
///
/// What was ignored when it started stays ignored, here and in the command: that is how `nohup` and
/// a shell's `&` ask for it.
pub(crate) fn block() -> nix::Result<Blocked> {
    let ignored = ignored();
    let before = SigSet::thread_get_mask()?;
    let mut set = SigSet::empty();
    let mut ours = Vec::new();
    for signal in FORWARDED.into_iter().chain(OWN) {
        let needed = matches!(signal, Signal::SIGCHLD | Signal::SIGTTOU);
        if !needed && ignored & bit(signal) != 0 {
            continue;
        }
        set.add(signal);
        if !before.contains(signal) {
            ours.push(signal as i32);
        }
    }
    set.thread_block()?;
    Ok(Blocked { set, ours })
}

/// Makes ends of children visible to a process that was started with SIGCHLD ignored: there, the
/// kernel reaps children by itself and their exit codes are lost.
///
/// The handler does nothing, for the signal is blocked. But a handled signal is not ignored, here;
/// and in the keeper it has its default again, because `exec` forgets handlers.
pub(crate) fn see_children(runtime: &Runtime) -> io::Result<()> {
    if ignored() & bit(Signal::SIGCHLD) != 0 {
        let _entered = runtime.enter();
        // Once registered, the handler stays; nobody listens.
        drop(tokio::signal::unix::signal(SignalKind::child())?);
    }
    Ok(())
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as u32 - 1)
}

/// The signals that are ignored, one bit each.
fn ignored() -> u64 {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("SigIgn:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0)
}

/// Lets signals through again.
pub(crate) fn unblock(numbers: &[i32]) -> nix::Result<()> {
    let mut set = SigSet::empty();
    for number in numbers {
        set.add(Signal::try_from(*number)?);
    }
    set.thread_unblock()
}

/// Whom a stop concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The whole job: the terminal stopped the command's group only, and the shell waits for ours.
    Group,
    /// This process: everybody else was told already.
    Process,
}

/// Stops, as Ctrl-Z does, and returns when continued. In a group that nobody could continue the
/// kernel ignores it, and it returns at once.
pub(crate) fn stop(signal: Signal, scope: Scope) -> nix::Result<()> {
    let mut set = SigSet::empty();
    set.add(signal);
    set.thread_unblock()?;
    let target = match scope {
        Scope::Group => Pid::from_raw(0),
        Scope::Process => nix::unistd::getpid(),
    };
    let outcome = kill(target, signal);
    set.thread_block()?;
    outcome
}
