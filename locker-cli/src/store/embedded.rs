//! The embedded store: what must be true of its path before it is opened.

use super::unusable_folder;
use crate::exit::Exit;
use crate::failure::Failure;
use locker_core::Connect;
use locker_sqlite::{Liveness, Sqlite};
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The store in this file, and a duplicate of its liveness descriptor for the keeper.
pub(super) fn open(
    path: &str,
    namespace: &str,
    busy_timeout: Option<Duration>,
) -> Result<(Arc<dyn Connect>, OwnedFd), Failure> {
    if path.is_empty() {
        return Err(Failure::usage("the store has no path").hint("--store sqlite:PATH"));
    }
    let path = Path::new(path);
    check_folder(path)?;
    check_file(path)?;
    let doing = format!("cannot open the store {}", path.display());
    let liveness = Liveness::beside(path).map_err(|error| Failure::backend(&doing, &error))?;
    let descriptor = liveness.as_fd().try_clone_to_owned()?;
    let mut sqlite = Sqlite::new(path).namespace(namespace).liveness(liveness);
    if let Some(busy_timeout) = busy_timeout {
        sqlite = sqlite.busy_timeout(busy_timeout);
    }
    Ok((Arc::new(sqlite), descriptor))
}

/// A path that was given is taken as it is: a folder that is not there may be a file system that
/// is not mounted, and a lock in an empty folder would be nobody's.
fn check_folder(path: &Path) -> Result<(), Failure> {
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    };
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(data) if data.is_dir() => {}
        Ok(_) => return Err(unusable_folder(format!("{shown} is not a folder"))),
        Err(error) => {
            return Err(unusable_folder(format!(
                "the store's folder {shown}: {error}"
            )));
        }
    }
    // Every process of the store writes files beside it.
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|error| unusable_folder(format!("cannot write to the folder {shown}: {error}")))
}

/// A file that is there must be readable and writable; why it is not decides the exit code.
fn check_file(path: &Path) -> Result<(), Failure> {
    if !path.exists() {
        return Ok(());
    }
    let refuse = |exit, doing: &str, error: nix::Error| {
        Failure::new(
            exit,
            format!("cannot {doing} the store {}: {error}", path.display()),
        )
        .lock("no store was asked, and no lock is held")
        .hint("every process of a store reads and writes it: change its owner or its mode")
    };
    access(path, AccessFlags::R_OK).map_err(|error| refuse(Exit::CONFIG, "read", error))?;
    access(path, AccessFlags::W_OK).map_err(|error| refuse(Exit::DENIED, "write", error))
}
