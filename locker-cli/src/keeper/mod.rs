//! Between the wrapper and the command stands a keeper.
//!
//! | process | is | ends when |
//! | --- | --- | --- |
//! | wrapper | what the user started; holds the lock and reports on it | the keeper reports the end, or is gone |
//! | keeper | the same binary again, one thread, in a group of its own; parent of the command and of every orphan below it | the last process below it is gone |
//! | command | leader of its own group, with SIGKILL as its death signal from the keeper | by itself, or killed by the keeper |
//!
//! They speak over a socket whose end is an order in itself: *the wrapper is gone, so end them all*.
//! On the embedded store the keeper also holds a duplicate of the liveness descriptor. It never
//! unlocks it and never reads it: the kernel closes it when the keeper ends, and only then does the
//! store see a dead process. So a lock whose wrapper was killed becomes free after the last process
//! of its command is gone, and never before.
//!
//! The keeper is in no group that anybody signals: Ctrl-C and Ctrl-Z go to the terminal's
//! foreground group, which is the wrapper's or the command's. It stays in the session, though, for
//! a command outside the session could not get the terminal.

mod exec;
mod family;
mod process;
pub(crate) mod wire;

use crate::exit::Exit;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, dup2_stdin};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use wire::{Order, Report};

/// First argument of the binary that is to be a keeper.
const KEEPER: &str = "__keeper";
/// First argument of the binary that is to become the command.
const EXEC_STAGE: &str = "__exec";

/// Runs as a keeper or as the exec stage, if that is what this process was started for.
pub(crate) fn stage(arguments: &[OsString]) -> Option<Exit> {
    let (first, command) = arguments.split_first()?;
    if first == OsStr::new(EXEC_STAGE) {
        // Why it failed is told by the wrapper, which hears it from the keeper.
        exec::become_command(command);
        return Some(Exit::INTERNAL);
    }
    if first != OsStr::new(KEEPER) {
        return None;
    }
    Some(match keep(command) {
        Ok(()) => Exit::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "locker: the keeper fails: {error}");
            Exit::INTERNAL
        }
    })
}

fn keep(command: &[OsString]) -> io::Result<()> {
    prctl::set_name(c"locker-keeper")?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    process::Keeper::new(socket, command.to_vec())?.live()
}

/// The wrapper's end of its keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    pid: Pid,
    socket: OwnedFd,
}

impl Keeper {
    /// Starts a keeper for this command. Nothing of the command runs before [`Order::Start`].
    ///
    /// It must be called before this process has a second thread and after it has blocked its
    /// signals, which the keeper inherits.
    pub(crate) fn spawn(command: &[OsString]) -> io::Result<Self> {
        // If the keeper is killed, its orphans come here and nowhere else.
        family::adopt_orphans()?;
        let (socket, theirs) = wire::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0("locker")
            .arg(KEEPER)
            .args(command)
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .spawn()?;
        Ok(Self {
            pid: Pid::from_raw(child.id().cast_signed()),
            socket,
        })
    }

    /// Gives an order. A keeper that does not listen, because it is stopped or gone, is no error
    /// here: the first is killed by its timer, the second is noticed at once.
    pub(crate) fn order(&self, order: &Order, descriptor: Option<BorrowedFd<'_>>) {
        let _ = wire::send(&self.socket, order, descriptor);
    }

    /// The next report; `None` when the keeper is gone.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none yet.
    pub(crate) fn report(&self) -> io::Result<Option<Report>> {
        let report = wire::receive(&self.socket, false)?;
        Ok(report.map(|(report, _)| report))
    }

    /// What becomes readable when there is a report.
    pub(crate) fn readiness(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// Continues a keeper that somebody stopped: a keeper at rest cannot keep anything.
    pub(crate) fn wake_if_stopped(&self) -> bool {
        // Without WEXITED, so that a dead keeper stays to be reaped and keeps its number.
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WSTOPPED;
        let stopped = matches!(
            waitid(Id::Pid(self.pid), flags),
            Ok(WaitStatus::Stopped(..))
        );
        stopped && kill(self.pid, Signal::SIGCONT).is_ok()
    }

    /// Ends everything below this process after the keeper has died, and returns when the last of
    /// it is gone.
    ///
    /// The command itself was killed by its death signal; what it had started is an orphan now, and
    /// therefore a child of this process.
    pub(crate) fn end_what_it_kept(self, group: Option<Pid>) {
        drop(self.socket);
        let _ = kill(self.pid, Signal::SIGKILL);
        loop {
            family::kill_all(group);
            match family::next_event() {
                Ok(Some(_)) => {}
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(_) => return,
            }
        }
    }

    /// Waits for the end of a keeper that has nobody left to keep.
    pub(crate) fn dismiss(self) {
        drop(self.socket);
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}
