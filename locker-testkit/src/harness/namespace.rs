//! A worker on a machine of its own, as far as the network goes: a network namespace, and a wire to
//! this one on which packets can be lost, in one direction or in both. It needs root, and `ip`.
//!
//! Nobody is told of the loss: packets are addressed to a card that is not there, and the card that is
//! there drops them. So connections stay, bytes are repeated by the kernel, and what was on its way
//! arrives afterwards. It takes neither a packet filter nor a queueing discipline, which a kernel may
//! lack.

use std::io;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Of networks in which nothing but measurements takes place (RFC 2544): four addresses for each wire.
const NETWORK: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const WIRES: u32 = 32_768;
/// The address of a card that nobody has.
const NOBODY: &str = "02:00:00:00:00:01";

/// What is lost on a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Every packet.
    Everything,
    /// The packets to the worker.
    Replies,
}

/// A network namespace with a wire to this one. It goes with the value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    outer: String,
    inner: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
}

impl Namespace {
    /// A new one.
    ///
    /// # Errors
    ///
    /// Without root, and without `ip`.
    pub fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = NETWORK + 4 * ((pid.wrapping_mul(64) + number) % WIRES);
        let space = Self {
            name: format!("locker-{pid}-{number}"),
            // Names of cards have at most 15 letters.
            outer: format!("lko{pid}n{number}"),
            inner: format!("lki{pid}n{number}"),
            here: Ipv4Addr::from(network + 1),
            there: Ipv4Addr::from(network + 2),
        };
        if !nix::unistd::Uid::effective().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let made = space.make();
        made.map(|()| space)
            .map_err(|error| format!("no network namespace: {error}"))
    }

    fn make(&self) -> io::Result<()> {
        let (name, outer, inner) = (&*self.name, &*self.outer, &*self.inner);
        let (here, there) = (format!("{}/30", self.here), format!("{}/30", self.there));
        ip(&["netns", "add", name])?;
        ip(&[
            "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name,
        ])?;
        ip(&["address", "add", &here, "dev", outer])?;
        ip(&["-n", name, "address", "add", &there, "dev", inner])?;
        ip(&["link", "set", outer, "up"])?;
        ip(&["-n", name, "link", "set", inner, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])
    }

    /// Where whoever is in it finds this machine.
    pub fn host(&self) -> Ipv4Addr {
        self.here
    }

    /// What stands before the command line of a process that is to live in it.
    pub fn command(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name]
            .map(str::to_owned)
            .to_vec()
    }

    /// From now on this is lost.
    ///
    /// # Errors
    ///
    /// What `ip` says against it.
    pub fn loses(&self, what: Lost) -> io::Result<()> {
        let (here, there) = (self.here.to_string(), self.there.to_string());
        let nobody = ["lladdr", NOBODY, "nud", "permanent", "dev"];
        let replies = [&["neigh", "replace", &there], &nobody[..], &[&*self.outer]].concat();
        ip(&replies)?;
        if what == Lost::Everything {
            let requests = ["-n", &self.name, "neigh", "replace", &here];
            ip(&[&requests, &nobody[..], &[&*self.inner]].concat())?;
        }
        Ok(())
    }

    /// Nothing is lost any more.
    pub fn heal(&self) {
        let (here, there) = (self.here.to_string(), self.there.to_string());
        // What is not there need not be removed.
        let _ = ip(&["neigh", "del", &there, "dev", &self.outer]);
        let _ = ip(&["-n", &self.name, "neigh", "del", &here, "dev", &self.inner]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.outer]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(words: &[&str]) -> io::Result<()> {
    let said = Command::new("ip").args(words).output()?;
    if said.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {}: {why}", words.join(" "))))
}
