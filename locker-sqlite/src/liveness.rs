//! How the kernel tells who is alive: one locked byte per incarnation, in one file beside the
//! database.
//!
//! The lock is an *open-file-description* lock. It belongs to the one descriptor that a locker
//! opened (and to its duplicates, such as the one that the command line's keeper holds), and ends
//! when the last of them is closed: at the death of the process, however it dies. A POSIX record
//! lock would not do: it vanishes when *any* descriptor of the file is closed, and never conflicts
//! inside one process, so that two lockers of one process would each take the other for dead
//! (attack 13d, measured).
//!
//! The file is never the database itself, and it is never unlinked by us. Only its locks matter, so
//! it stays empty. Somebody else may remove it: then the next opener makes another one, and neither
//! can see the other's bytes. Each process row therefore says *which* file its byte is in, and a free
//! byte means "dead" only to who has that very file open. An inode number is not given to another
//! file while anybody has the first one open, so a living owner's file is never mistaken.

use crate::error;
use crate::place::{FileId, beside};
use locker_core::{BackendError, ProcessHash};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes are chosen from here up to, not including, 2^62: a file offset has 63 bits.
const BYTES: u128 = 1 << 62;

/// An opened liveness file: **one** open file description, shared by all clones.
///
/// While it is open, the bytes that it has locked say that their incarnations are alive. Dropping
/// the last clone (and closing every duplicate of its descriptor) tells the whole machine that they
/// are dead, at once. A supervisor that must keep a process's locks until *its own* end holds a
/// duplicate of the descriptor, and never unlocks it.
#[derive(Debug, Clone)]
pub struct Liveness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    id: FileId,
    database: PathBuf,
    /// The bytes that were locked through this description: the kernel does not report them to it.
    own: Mutex<HashSet<i64>>,
}

/// What came of an attempt to take a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// By this call.
    Now,
    /// Through this description, before.
    Before,
    /// By somebody else.
    Elsewhere,
}

impl Liveness {
    /// Opens the liveness file of the database at `db_path`, and creates it if there is none.
    ///
    /// # Errors
    ///
    /// `Denied` when the file cannot be opened for writing. Nothing is locked.
    pub fn beside(db_path: impl AsRef<Path>) -> Result<Self, BackendError> {
        let database = absolute(db_path.as_ref());
        let path = beside(&database, ".alive");
        let open = || -> std::io::Result<_> {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let id = FileId::of(&file.metadata()?);
            Ok((file, id))
        };
        let (file, id) =
            open().map_err(|cause| error::opening_file(&path, &cause).with_source(cause))?;
        Ok(Self(Arc::new(Inner {
            file,
            id,
            database,
            own: Mutex::default(),
        })))
    }

    /// The database that this file belongs to.
    pub(crate) fn database(&self) -> &Path {
        &self.0.database
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> FileId {
        self.0.id
    }

    /// The byte of an incarnation. Its 128 random bits decide, so two incarnations share a byte as
    /// rarely as 62 random bits meet; and if they do, the second is not born.
    pub(crate) fn byte_of(process: &ProcessHash) -> i64 {
        i64::try_from(process.nonce() % BYTES).unwrap_or(0)
    }

    /// Locks a byte.
    pub(crate) fn take(&self, byte: i64) -> Result<Taken, Errno> {
        let mut own = self.own();
        if own.contains(&byte) {
            return Ok(Taken::Before);
        }
        match self.set(byte, libc::F_WRLCK) {
            Ok(()) => {
                own.insert(byte);
                Ok(Taken::Now)
            }
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(Taken::Elsewhere),
            Err(error) => Err(error),
        }
    }

    /// Unlocks a byte that was taken through this description. Only for an incarnation whose record
    /// has ended, or never was.
    pub(crate) fn give_back(&self, byte: i64) {
        let mut own = self.own();
        if own.remove(&byte)
            && let Err(error) = self.set(byte, libc::F_UNLCK)
        {
            tracing::debug!(%error, "a liveness byte could not be unlocked");
        }
    }

    /// Whether the process with this byte of this file is dead for certain. "No" is not "alive":
    /// where the kernel cannot tell, the process record alone decides.
    pub(crate) fn surely_dead(&self, file: FileId, byte: i64) -> bool {
        file == self.id() && self.is_locked(byte, 1) == Ok(false)
    }

    /// Whether any byte at all is locked, by anybody.
    pub(crate) fn anybody(&self) -> Result<bool, Errno> {
        // A length of zero reaches to the end of all offsets.
        let own = !self.own().is_empty();
        Ok(own || self.conflicts(0, 0)?)
    }

    fn is_locked(&self, byte: i64, len: i64) -> Result<bool, Errno> {
        // The set is looked at under its mutex: a byte is in it before anybody can be told of it.
        if self.own().contains(&byte) {
            return Ok(true);
        }
        self.conflicts(byte, len)
    }

    fn conflicts(&self, start: i64, len: i64) -> Result<bool, Errno> {
        let mut lock = flock(start, len, libc::F_WRLCK);
        fcntl(&self.0.file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }

    fn set(&self, byte: i64, kind: libc::c_int) -> Result<(), Errno> {
        fcntl(&self.0.file, FcntlArg::F_OFD_SETLK(&flock(byte, 1, kind)))?;
        Ok(())
    }

    fn own(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.0.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Liveness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

/// The same path for the life of the process, wherever it changes its directory to.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The request of a byte lock. `l_pid` must be zero for open-file-description locks.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the constants are small; the field is a short"
)]
fn flock(start: i64, len: i64, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptions_of_one_process_see_each_others_bytes_and_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let (a, b) = (
            Liveness::beside(&path).unwrap(),
            Liveness::beside(&path).unwrap(),
        );
        assert_eq!(a.take(7).unwrap(), Taken::Now);
        assert_eq!(a.clone().take(7).unwrap(), Taken::Before);
        assert_eq!(b.take(7).unwrap(), Taken::Elsewhere);
        assert!(!a.surely_dead(a.id(), 7));
        assert!(!b.surely_dead(a.id(), 7));
        assert!(b.surely_dead(a.id(), 8));
        assert!(a.anybody().unwrap() && b.anybody().unwrap());
        drop(a);
        assert!(b.surely_dead(b.id(), 7));
        assert!(!b.anybody().unwrap());
    }

    #[test]
    fn a_byte_of_another_file_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let old = Liveness::beside(&path).unwrap();
        std::fs::remove_file(folder.path().join("db.alive")).unwrap();
        let new = Liveness::beside(&path).unwrap();
        assert_ne!(old.id(), new.id());
        assert!(!new.surely_dead(old.id(), 7));
    }

    /// Attack 13d: a POSIX lock would be gone after this.
    #[test]
    fn closing_another_descriptor_of_the_file_unlocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let owner = Liveness::beside(&path).unwrap();
        owner.take(7).unwrap();
        drop(File::open(folder.path().join("db.alive")).unwrap());
        drop(Liveness::beside(&path).unwrap());
        let other = Liveness::beside(&path).unwrap();
        assert!(!other.surely_dead(owner.id(), 7));
    }

    #[test]
    fn a_duplicate_of_the_descriptor_keeps_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let owner = Liveness::beside(&path).unwrap();
        owner.take(7).unwrap();
        let (id, keeper) = (owner.id(), owner.as_fd().try_clone_to_owned().unwrap());
        drop(owner);
        let other = Liveness::beside(&path).unwrap();
        assert!(!other.surely_dead(id, 7));
        drop(keeper);
        assert!(other.surely_dead(id, 7));
    }
}
