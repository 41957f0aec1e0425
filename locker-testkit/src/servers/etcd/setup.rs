//! How the servers of a test are to be, beyond the kit's own flags.

use crate::servers::certificates::{Certificates, LOCAL_NAMES};
use std::io;

/// What a test asks of its servers. The plain value asks for nothing: everybody is admitted, in
/// plain text.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub(super) flags: Vec<String>,
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
