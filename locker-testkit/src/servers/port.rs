//! Free ports for servers.
//!
//! The kernel hands out ports from 32768 upwards to clients, at any moment: a server that is to come
//! back on its port after a restart needs one below. Which of them are free is asked of the kernel,
//! and tests that run at the same time keep out of each other's way by a name that the kernel takes
//! back from a process that ends.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Where servers of tests live: below the ports of clients, above those of well-known services.
const RANGE: RangeInclusive<u16> = 12_000..=32_000;

/// How many ports are tried.
const TRIES: u32 = 1_000;

/// A port of this machine's loopback that is this value's alone, among all tests of this kit.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// An abstract socket, whose name is free again when this process ends, in whatever way.
    _claim: UnixListener,
}

impl Port {
    /// A port that nobody listens on and that no other test has.
    ///
    /// # Errors
    ///
    /// When none was found.
    pub fn free() -> io::Result<Self> {
        let span = u64::from(RANGE.end() - RANGE.start()) + 1;
        for _ in 0..TRIES {
            // A hasher of the standard library starts from random bits.
            let random = RandomState::new().build_hasher().finish();
            let offset = u16::try_from(random % span).unwrap_or_default();
            if let Some(port) = Self::claim(RANGE.start() + offset) {
                return Ok(port);
            }
        }
        Err(io::Error::other(format!(
            "no free port in {RANGE:?} after {TRIES} tries"
        )))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn claim(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("locker-testkit-port-{number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self {
            number,
            _claim: claim,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_at_a_time() {
        let port = Port::free().unwrap();
        assert!(Port::claim(port.number()).is_none());
        let number = port.number();
        drop(port);
        assert!(Port::claim(number).is_some());
    }
}
