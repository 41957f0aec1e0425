//! How the servers of a test are to be, beyond the kit's own flags.

use crate::servers::certificates::{Certificates, LOCAL_NAMES};
use std::io;
use std::path::{Path, PathBuf};

/// What a test asks of its servers. The plain value asks for nothing: everybody is admitted, in
/// plain text.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub(super) flags: Vec<String>,
    pub(super) parent: Option<PathBuf>,
    pub(super) certificates: Option<Certificates>,
    pub(super) client_certificates: bool,
}

impl Setup {
    /// Nothing special.
    pub fn new() -> Self {
        Self::default()
    }

    /// A further flag of every member, without its dashes.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push(format!("--{name}={value}"));
        self
    }

    /// Keeps the data below this folder; the system's folder for temporary files is the default.
    /// Where it is in memory, a commit costs no disk's work.
    #[must_use]
    pub fn below(mut self, folder: &Path) -> Self {
        self.parent = Some(folder.to_owned());
        self
    }

    /// TLS for clients, and nothing else, under the names of this machine.
    ///
    /// # Errors
    ///
    /// See [`Certificates::new`].
    pub fn tls(mut self) -> io::Result<Self> {
        self.certificates = Some(Certificates::new(&LOCAL_NAMES, "locker")?);
        Ok(self)
    }

    /// With TLS: clients must show a certificate of the same authority.
    #[must_use]
    pub fn ask_for_client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self
    }
}
