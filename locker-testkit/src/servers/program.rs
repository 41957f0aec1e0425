//! Where the binary of a server is. What is not there is named, with the package that has it.

use crate::Missing;
use std::env;
use std::path::PathBuf;

/// Folders that are searched after those of `PATH`: an ordinary user's `PATH` often lacks them.
const ALSO: [&str; 3] = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];

/// The path of this program.
///
/// # Errors
///
/// [`Missing`], which says that `install` has it.
pub fn find(name: &str, install: &str) -> Result<PathBuf, Missing> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ALSO.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Missing::new(format!("the program {name} is not installed"), install))
}
