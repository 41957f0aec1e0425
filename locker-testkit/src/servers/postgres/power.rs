//! What a test does to a server from outside: it stops it, takes its power away, brings back an old
//! copy of its data.
//!
//! A Postgres server is a process for each session and a few more. The first one alone is worth
//! nothing: its sessions go on without it.

use super::server::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

impl Server {
    /// All its processes now, the first one first.
    pub fn processes(&self) -> Vec<u32> {
        let Some(first) = self.pid() else {
            return Vec::new();
        };
        let mut all = vec![first.unsigned_abs()];
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children"));
        let children = children.unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
        all
    }

    /// Stops the server (SIGSTOP): its sessions stay, nothing is answered, and nobody is let in.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn pause(&self) -> io::Result<()> {
        self.first(Signal::SIGSTOP)?;
        // Nothing is born any more.
        self.children(Signal::SIGSTOP);
        Ok(())
    }

    /// Lets a stopped server go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&self) -> io::Result<()> {
        self.children(Signal::SIGCONT);
        self.first(Signal::SIGCONT)
    }

    /// Asks it to end when its last session has (SIGTERM): from then on it lets nobody in.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn close_doors(&self) -> io::Result<()> {
        self.first(Signal::SIGTERM)
    }

    /// Keeps a copy of the data as they are now, for [`restore`](Self::restore). The server is
    /// restarted for that.
    ///
    /// # Errors
    ///
    /// When there is no room, or the server does not start again.
    pub fn back_up(&mut self) -> io::Result<()> {
        self.kill()?;
        copy(&self.data(), &self.backup())?;
        self.start_again()
    }

    /// Brings back the data of the last [`back_up`](Self::back_up). The server must have been
    /// killed, and is started.
    ///
    /// # Errors
    ///
    /// When there is no copy, or the server does not start.
    pub fn restore(&mut self) -> io::Result<()> {
        fs::remove_dir_all(self.data())?;
        copy(&self.backup(), &self.data())?;
        self.start_again()
    }

    /// Ends all that would outlive the first process for a moment.
    pub(super) fn kill_children(&self) {
        if self.first(Signal::SIGSTOP).is_ok() {
            self.children(Signal::SIGKILL);
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn backup(&self) -> PathBuf {
        self.folder().join("backup")
    }

    fn first(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid().ok_or(io::ErrorKind::NotFound)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    fn children(&self, signal: Signal) {
        for pid in self.processes().into_iter().skip(1) {
            // One that has just ended needs no signal.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }
}

/// A copy with its owners, and without the mark of the server that ran on it.
fn copy(from: &std::path::Path, to: &std::path::Path) -> io::Result<()> {
    let copied = Command::new("cp").arg("-a").args([from, to]).output()?;
    if !copied.status.success() {
        let why = String::from_utf8_lossy(&copied.stderr).into_owned();
        return Err(io::Error::other(why));
    }
    match fs::remove_file(to.join("postmaster.pid")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
