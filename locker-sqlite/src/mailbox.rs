//! Wake-ups between processes: one unix datagram socket per connection that watches, in a folder
//! beside the database.
//!
//! A datagram is a list of (enrolment, place). Whoever frees a lock sends it after the commit, never
//! waiting: a receiver whose buffer is full, who is stopped or dead, misses a hint and polls. A hint
//! changes when something is tried, never what is true (S10), so nothing here needs to be trusted.
//!
//! Paths of sockets are short by law (108 bytes), paths of databases are not: the folder is opened
//! and its sockets are addressed through `/proc/self/fd`.

use crate::hints::Hub;
use crate::place::beside;
use locker_core::backend::Hint;
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

/// Enrolment and place.
const ENTRY_BYTES: usize = 12;
/// How many entries one datagram carries; it stays far below the system's limit.
const ENTRIES: usize = 1024;
/// The place of an enrolment that is gone because its process is dead.
const GONE: u32 = u32::MAX;
/// A socket file that answers nobody is removed when it is this old: a younger one may be between
/// its creation and its first breath.
const STALE: Duration = Duration::from_secs(60);

/// The bound socket of a connection; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Mailbox {
    name: String,
    path: PathBuf,
    reader: Option<JoinHandle<()>>,
}

impl Mailbox {
    /// Binds a socket beside the database, and reads it on the connection's own thread. If that cannot be
    /// done the connection's waiters poll: the mailbox has a name that nobody can reach.
    pub(crate) fn bind(database: &Path, hub: &Arc<Hub>) -> Self {
        let name = match getrandom::u64() {
            Ok(number) => format!("{number:016x}"),
            Err(_) => format!("pid-{}", std::process::id()),
        };
        let path = folder(database).join(&name);
        let reader = match listen(database, &name) {
            Ok(socket) => Some(tokio::spawn(read(socket, Arc::clone(hub)))),
            Err(error) => {
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "no wake-up socket: waiters of this connection learn of a free lock by polling"
                );
                None
            }
        };
        Self { name, path, reader }
    }

    /// The name under which enrolments mention it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
            std::fs::remove_file(&self.path).ok();
        }
    }
}

fn folder(database: &Path) -> PathBuf {
    beside(database, ".wake")
}

/// The opened folder of sockets, for as long as one of them is addressed.
#[derive(Debug)]
struct Folder(File);

impl Folder {
    fn open(database: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(folder(database))
            .map(Self)
    }

    fn address(&self, name: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()).into()
    }
}

fn listen(database: &Path, name: &str) -> io::Result<UnixDatagram> {
    match std::fs::create_dir(folder(database)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let folder = Folder::open(database)?;
    UnixDatagram::bind(folder.address(name))
}

async fn read(socket: UnixDatagram, hub: Arc<Hub>) {
    let mut buffer = vec![0; ENTRY_BYTES * ENTRIES];
    // An error of a bound datagram socket is not expected; without it waiters poll.
    while let Ok(length) = socket.recv(&mut buffer).await {
        for entry in buffer[..length].chunks_exact(ENTRY_BYTES) {
            let (Ok(id), Ok(place)) = (entry[..8].try_into(), entry[8..].try_into()) else {
                continue;
            };
            let id = i64::from_le_bytes(id);
            match u32::from_le_bytes(place) {
                GONE => hub.end(id),
                place => hub.deliver(id, Hint::Free { place }),
            }
        }
    }
}

/// What one release has to say, gathered by socket, so that a process is woken once.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    by_socket: std::collections::BTreeMap<String, Vec<u8>>,
}

impl Letters {
    pub(crate) fn free(&mut self, socket: &str, id: i64, place: u32) {
        self.add(socket, id, place.min(GONE - 1));
    }

    pub(crate) fn gone(&mut self, socket: &str, id: i64) {
        self.add(socket, id, GONE);
    }

    fn add(&mut self, socket: &str, id: i64, place: u32) {
        let letter = self.by_socket.entry(socket.to_owned()).or_default();
        letter.extend_from_slice(&id.to_le_bytes());
        letter.extend_from_slice(&place.to_le_bytes());
    }

    /// Sends everything, without waiting for anybody; answers the sockets that nobody listens to any
    /// more. Their files are removed: an enrolment is written only after its socket was bound, so
    /// none of them is still being made.
    pub(crate) fn send(self, database: &Path) -> Vec<String> {
        let mut dead = Vec::new();
        if self.by_socket.is_empty() {
            return dead;
        }
        let sending = || -> io::Result<_> {
            let socket = StdDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, Folder::open(database)?))
        };
        let (socket, folder) = match sending() {
            Ok(sending) => sending,
            Err(error) => {
                tracing::debug!(%error, "no wake-up could be sent; waiters poll");
                return dead;
            }
        };
        for (name, letter) in self.by_socket {
            // A name comes from the file; only one that a mailbox can have leads to a socket.
            if !is_name(&name) {
                dead.push(name);
                continue;
            }
            let address = folder.address(&name);
            for part in letter.chunks(ENTRY_BYTES * ENTRIES) {
                match socket.send_to(part, &address) {
                    Err(error) if is_dead(&error) => {
                        std::fs::remove_file(&address).ok();
                        dead.push(name);
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "a wake-up was not taken"),
                    Ok(_) => {}
                }
            }
        }
        dead
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_dead(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

/// Removes the sockets of processes that ended without doing so. It never fails: what is left over
/// costs a file.
pub(crate) fn remove_stale(database: &Path) {
    let (Ok(entries), Ok(folder)) = (std::fs::read_dir(folder(database)), Folder::open(database))
    else {
        return;
    };
    let Ok(probe) = StdDatagram::unbound() else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let age = entry.metadata().and_then(|file| file.modified());
        let old = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE));
        if is_name(&name) && old {
            let address = folder.address(&name);
            // Connecting sends nothing.
            if probe.connect(&address).is_err_and(|error| is_dead(&error)) {
                std::fs::remove_file(&address).ok();
            }
        }
    }
}
