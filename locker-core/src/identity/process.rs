//! The identity of one incarnation of a process.

use super::{Host, InvalidIdentity, escape, parse_canonical};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The identity of one *incarnation* of a process: `{host}/{pid}.{digits}`.
///
/// The digits carry 128 random bits, so an incarnation is never confused with another one: not
/// after a restart with the same pid, not after a fork, not on a cloned machine that drew its own
/// bits. A process that lost its liveness continues as a new incarnation, with new digits.
///
/// ```
/// # use locker_core::{Host, ProcessHash};
/// let process = ProcessHash::new(&Host::new("web-1")?, 4711, 99);
/// assert_eq!(process.to_string(), "web-1/4711.99");
/// assert_eq!("web-1/4711.99".parse::<ProcessHash>()?, process);
/// # Ok::<(), locker_core::InvalidIdentity>(())
/// ```
#[derive(Clone)]
pub struct ProcessHash(Arc<Parts>);

struct Parts {
    text: Box<str>,
    host: Host,
    pid: u32,
    nonce: u128,
}

impl ProcessHash {
    const WHAT: &'static str = "process hash";
    const FORM: &'static str = "{host}/{pid}.{digits}";

    /// The incarnation of process `pid` on `host` that drew the random bits `nonce`.
    pub fn new(host: &Host, pid: u32, nonce: u128) -> Self {
        let text = format!("{}/{pid}.{nonce}", escape::escape(host.as_str()));
        Self(Arc::new(Parts {
            text: text.into(),
            host: host.clone(),
            pid,
            nonce,
        }))
    }

    /// The machine the process runs on.
    pub fn host(&self) -> &Host {
        &self.0.host
    }

    /// The operating system's number of the process on that machine.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The random bits of this incarnation.
    pub fn nonce(&self) -> u128 {
        self.0.nonce
    }

    /// The textual form.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl FromStr for ProcessHash {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let parsed = (|| {
            // From the right, because a host name may contain `/` and `.` itself.
            let (host, numbers) = text.rsplit_once('/')?;
            let (pid, nonce) = numbers.split_once('.')?;
            let host = Host::new(escape::unescape(host)?).ok()?;
            Some(Self::new(
                &host,
                parse_canonical(pid)?,
                parse_canonical(nonce)?,
            ))
        })();
        parsed.ok_or_else(|| InvalidIdentity::malformed(Self::WHAT, Self::FORM, text))
    }
}

impl PartialEq for ProcessHash {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Eq for ProcessHash {}

impl PartialOrd for ProcessHash {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ProcessHash {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.text.cmp(&other.0.text)
    }
}

impl Hash for ProcessHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl fmt::Display for ProcessHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.text)
    }
}

impl fmt::Debug for ProcessHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0.text, f)
    }
}
