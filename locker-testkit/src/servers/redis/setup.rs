//! How the servers of a test are to be: what their configuration says beyond the kit's own lines.

use crate::servers::certificates::{Certificates, LOCAL_NAMES};
use std::io;

/// What a test asks of its servers. The plain value asks for nothing: everybody is admitted, in
/// plain text.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    pub(super) lines: Vec<String>,
    pub(super) password: Option<String>,
    pub(super) certificates: Option<Certificates>,
    pub(super) client_certificates: bool,
    pub(super) environment: Vec<String>,
    pub(super) announced: Vec<u16>,
}

impl Setup {
    /// Nothing special.
    pub fn new() -> Self {
        Self::default()
    }

    /// A further line of `redis.conf`, for every server. Sentinels do not get it.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// A user, in the words of `ACL SETUSER`: `locker on >secret ~locker:* +@all`.
    #[must_use]
    pub fn user(self, rules: &str) -> Self {
        self.line(format!("user {rules}"))
    }

    /// The password of the default user, of replicas and of sentinels.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// TLS and nothing else, under the names of this machine.
    ///
    /// # Errors
    ///
    /// See [`Certificates::new`].
    pub fn tls(self) -> io::Result<Self> {
        self.tls_named(&LOCAL_NAMES)
    }

    /// TLS with a certificate for these names.
    ///
    /// # Errors
    ///
    /// See [`Certificates::new`].
    pub fn tls_named(mut self, names: &[&str]) -> io::Result<Self> {
        self.certificates = Some(Certificates::new(names, "locker")?);
        Ok(self)
    }

    /// With TLS: clients must show a certificate of the same authority.
    #[must_use]
    pub fn ask_for_client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self
    }

    /// A variable of the servers' environment, such as a library to preload.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// The ports that the servers of a cluster, or a master and its replicas, name to clients, in
    /// the order of the nodes: those of proxies in front of them.
    #[must_use]
    pub fn announced(mut self, ports: &[u16]) -> Self {
        self.announced = ports.to_vec();
        self
    }
}
