//! The processes below this one: who they are, how they are ended, and when the last is gone.
//!
//! This process is a *subreaper*: whatever loses its parent below it becomes its child, daemons that
//! left the command's group and session included. So `waitpid` saying ECHILD is certain knowledge
//! that nothing is left; looking for a process group by `kill(-pgid, 0)` is not, because zombies
//! that nobody reaps keep a group alive for ever.

use super::wire::Status;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};
use std::collections::HashSet;
use std::fs;

/// What happened to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It ended and is reaped.
    Ended(Pid, Status),
    /// It was stopped by this signal.
    Stopped(Pid, Signal),
}

/// Makes this process the parent of every orphan below it.
pub(crate) fn adopt_orphans() -> nix::Result<()> {
    prctl::set_child_subreaper(true)
}

/// The next thing that happened to any child, without waiting.
///
/// # Errors
///
/// `ECHILD` when there is no child any more, living or dead.
pub(crate) fn next_event() -> nix::Result<Option<Event>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                return Ok(Some(Event::Ended(pid, Status::Exited(code))));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                return Ok(Some(Event::Ended(pid, Status::Killed(signal as i32))));
            }
            Ok(WaitStatus::Stopped(pid, signal)) => return Ok(Some(Event::Stopped(pid, signal))),
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The children of this process, as the kernel lists them, zombies included.
pub(crate) fn children() -> Vec<Pid> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    let mut children = Vec::new();
    for thread in threads.flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .map(Pid::from_raw),
        );
    }
    children
}

/// Sends a signal to the command's group, as long as the group is certainly still the command's.
///
/// Once its leader is reaped and its last member gone, the number may be given to a stranger; so
/// one of our own children must be in it. A member that is none of our children hangs below one,
/// and becomes ours when that one ends.
pub(crate) fn signal_group(group: Pid, signal: Signal, children: &[Pid]) {
    if children
        .iter()
        .any(|child| getpgid(Some(*child)) == Ok(group))
    {
        // It fails only if everybody in it is gone, or belongs to another user by now; the latter
        // keep the lock until they end by themselves.
        let _ = killpg(group, signal);
    }
}

/// Kills the group and every child there is now.
///
/// Each death hands the children of the dead to this process *before* it is reported here, so a
/// caller that kills again after each reaped child, until ECHILD, leaves nobody behind.
pub(crate) fn kill_all(group: Option<Pid>) {
    let children = children();
    if let Some(group) = group {
        signal_group(group, Signal::SIGKILL, &children);
    }
    for child in children {
        let _ = kill(child, Signal::SIGKILL);
    }
}

/// Asks the group and every child to end, each once.
pub(crate) fn ask_all(group: Option<Pid>, asked: &mut HashSet<Pid>) {
    let children = children();
    if let Some(group) = group
        && asked.insert(group)
    {
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            signal_group(group, signal, &children);
        }
    }
    for child in children {
        let in_group = group.is_some() && getpgid(Some(child)).ok() == group;
        if asked.insert(child) && !in_group {
            // Who is stopped cannot obey.
            for signal in [Signal::SIGTERM, Signal::SIGCONT] {
                let _ = kill(child, signal);
            }
        }
    }
}
