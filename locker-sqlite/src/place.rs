//! The place of the store in the file system: which file it is, and whether a lock on it means
//! anything.

use crate::error;
use locker_core::BackendError;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statfs;
use nix::unistd::{AccessFlags, faccessat};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which file a path or a descriptor leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file that this metadata describes.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    /// The file at this path; `None` when there is none. It never opens the file: closing a second
    /// descriptor of a database would drop the POSIX locks that SQLite holds on it in this process.
    pub(crate) fn at(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self::of(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As the file keeps it: the bits of the two numbers.
    pub(crate) fn to_columns(self) -> (i64, i64) {
        (self.device.cast_signed(), self.inode.cast_signed())
    }

    /// The inverse of [`to_columns`](Self::to_columns).
    pub(crate) fn from_columns(device: i64, inode: i64) -> Self {
        Self {
            device: device.cast_unsigned(),
            inode: inode.cast_unsigned(),
        }
    }
}

/// A path beside the database: the same name with this ending.
pub(crate) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Refuses, before anything is created, a path that no store can live at.
pub(crate) fn check(database: &Path) -> Result<(), BackendError> {
    let shown = database.display();
    let folder = match database.parent() {
        Some(folder) if database.file_name().is_some() => folder,
        _ => return Err(error::config(format!("{shown} does not name a file"))),
    };
    let folder_shown = folder.display();
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(error::config(format!("{folder_shown} is not a folder"))),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return Err(error::config(format!(
                "the folder {folder_shown} does not exist; create it, or give the store another path"
            )));
        }
        Err(cause) => {
            return Err(
                error::denied(format!("the folder {folder_shown} cannot be entered"))
                    .with_source(cause),
            );
        }
    }
    // SQLite follows a link and puts its log beside the target; the liveness file would lie beside the
    // link. Under two names of one file neither log nor bytes would be shared.
    let file = match std::fs::symlink_metadata(database) {
        Ok(metadata) if metadata.is_symlink() || (metadata.is_file() && metadata.nlink() > 1) => {
            return Err(error::config(format!(
                "{shown} is a link; give the store the one real path of the file, for all processes"
            )));
        }
        Ok(metadata) if metadata.is_file() => Some(database),
        Ok(_) => return Err(error::config(format!("{shown} is not a regular file"))),
        Err(_) => None,
    };
    // Where SQLite may not write it says so late and vaguely, or opens for reading only.
    let (log, memory) = (beside(database, "-wal"), beside(database, "-shm"));
    let files = [database, &log, &memory];
    let files = files.into_iter().filter(|path| path.exists());
    for path in std::iter::once(folder).chain(files) {
        let writable = faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS);
        if let Err(cause @ (Errno::EACCES | Errno::EROFS | Errno::EPERM)) = writable {
            return Err(error::denied(format!(
                "{} is read-only for this user; every process of the store writes the folder, the \
                 database and the files beside it",
                path.display()
            ))
            .with_source(cause));
        }
    }
    check_file_system(file.unwrap_or(folder))
}

/// File systems that another kernel may have mounted too. Byte locks may not reach it, shared
/// memory does not, and its boot clock is another one (attack 13a). FUSE is among them because
/// virtiofs, which shares a folder between a virtual machine and its host, says it is FUSE.
const SHARED: &[(i64, &str)] = &[
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE or virtiofs"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "kAFS"),
    (0x7375_7245, "Coda"),
    (0x564C, "NCP"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x786F_4256, "a folder shared by VirtualBox"),
    (0xBACB_ACBC, "a folder shared by VMware"),
];

fn check_file_system(path: &Path) -> Result<(), BackendError> {
    let kind = statfs::statfs(path).map_err(|cause| {
        error::unavailable(format!("{} cannot be examined", path.display())).with_source(cause)
    })?;
    // The kernel's magic numbers are 32 bits wide, whatever the width of the field.
    let magic = kind.filesystem_type().0 & 0xFFFF_FFFF;
    match shared_name(magic) {
        None => Ok(()),
        Some(name) => Err(error::config(format!(
            "{} lies on {name}, which more than one machine can mount: this store cannot keep two \
             machines apart; put it on a local disk (--store), or use a store with a server",
            path.display()
        ))),
    }
}

fn shared_name(magic: i64) -> Option<&'static str> {
    let (_, name) = SHARED.iter().find(|(shared, _)| *shared == magic)?;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_magic_and_local_ones_are_not() {
        assert_eq!(shared_name(0x6969), Some("NFS"));
        assert_eq!(shared_name(0xFF53_4D42), Some("CIFS"));
        assert_eq!(shared_name(0x6573_5546), Some("FUSE or virtiofs"));
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630] {
            assert_eq!(shared_name(local), None);
        }
    }

    #[test]
    fn a_file_id_survives_its_columns() {
        let id = FileId {
            device: u64::MAX - 3,
            inode: 7,
        };
        let (device, inode) = id.to_columns();
        assert_eq!(FileId::from_columns(device, inode), id);
    }
}
