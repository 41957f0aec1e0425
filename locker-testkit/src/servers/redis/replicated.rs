//! One server, and one server with replicas.

use super::node::{Kind, Node, START_LIMIT, unavailable};
use super::setup::Setup;
use crate::Missing;
use crate::servers::wait::wait_until;
use std::io;

/// A standalone server.
#[derive(Debug)]
pub struct Server {
    node: Node,
    url: String,
}

impl Server {
    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`Missing`] when it cannot be had.
    pub fn start(setup: &Setup) -> Result<Self, Missing> {
        let node = Node::start(setup, Kind::Data, |_, _| announced(setup, 0))?;
        let url = url(setup, &node, "");
        Ok(Self { node, url })
    }

    /// Its URL, for the default user.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its process, to be killed and started.
    pub fn node_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

/// A master and its replicas, with nobody who would promote one.
#[derive(Debug)]
pub struct Replicated {
    nodes: Vec<Node>,
    url: String,
}

impl Replicated {
    /// Starts a master and so many replicas, and waits until they have caught up.
    ///
    /// # Errors
    ///
    /// [`Missing`] when they cannot be had.
    pub fn start(setup: &Setup, replicas: usize) -> Result<Self, Missing> {
        let master = Node::start(setup, Kind::Data, |_, _| announced(setup, 0))?;
        let of = format!("replicaof 127.0.0.1 {}", master.port());
        let url = url(setup, &master, "");
        let mut nodes = vec![master];
        for place in 1..=replicas {
            nodes.push(Node::start(setup, Kind::Data, |_, _| {
                let mut lines = announced(setup, place);
                lines.push(of.clone());
                lines
            })?);
        }
        let replicated = Self { nodes, url };
        for replica in replicated.replicas() {
            linked(replica).map_err(|error| unavailable(&error))?;
        }
        Ok(replicated)
    }

    /// The URL of the first master.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server that was the master at the start.
    pub fn master(&self) -> &Node {
        &self.nodes[0]
    }

    /// The replicas of the start.
    pub fn replicas(&self) -> &[Node] {
        &self.nodes[1..]
    }

    /// All, the first master first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All, to be killed and started.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Cuts a replica off from its master, so that it misses every write from now on. It keeps
    /// trying to come back, and fails.
    pub fn cut_off(&self, replica: &Node) -> io::Result<()> {
        cut_off(replica)
    }
}

/// Makes a replica miss the writes of its master from now on: its next attempts to log in are
/// refused. What a master had sent before that may still arrive.
pub(super) fn cut_off(replica: &Node) -> io::Result<()> {
    replica.command(&["CONFIG", "SET", "masterauth", "cut off by the test"])?;
    replica.command(&["CLIENT", "KILL", "TYPE", "master"])?;
    wait_until(START_LIMIT, || {
        match replica.info("replication", "master_link_status") {
            Ok(status) if status == "down" => Ok(()),
            Ok(status) => Err(format!("the link is {status}")),
            Err(error) => Err(error.to_string()),
        }
    })
}

/// Waits until a replica follows its master.
pub(super) fn linked(replica: &Node) -> io::Result<()> {
    wait_until(START_LIMIT, || {
        match replica.info("replication", "master_link_status") {
            Ok(status) if status == "up" => Ok(()),
            Ok(status) => Err(format!("the link is {status}")),
            Err(error) => Err(error.to_string()),
        }
    })
}

/// What a server of this place in its deployment names to others.
fn announced(setup: &Setup, place: usize) -> Vec<String> {
    setup
        .announced
        .get(place)
        .map(|port| format!("replica-announce-port {port}"))
        .into_iter()
        .collect()
}

/// The URL of a deployment that is found through these nodes: `kind` is `+cluster` or nothing.
pub(super) fn url(setup: &Setup, node: &Node, kind: &str) -> String {
    many_url(setup, std::slice::from_ref(node), kind, "")
}

/// The URL of a deployment that is found through any of these nodes.
pub(super) fn many_url(setup: &Setup, nodes: &[Node], kind: &str, path: &str) -> String {
    let scheme = if setup.certificates.is_some() {
        "rediss"
    } else {
        "redis"
    };
    let user = match &setup.password {
        Some(password) => format!(":{password}@"),
        None => String::new(),
    };
    let hosts: Vec<String> = nodes.iter().map(Node::address).collect();
    let query = match nodes.first().and_then(Node::certificates) {
        Some(files) if setup.client_certificates => format!(
            "?ca={}&cert={}&key={}",
            files.authority.display(),
            files.client.display(),
            files.client_key.display()
        ),
        Some(files) => format!("?ca={}", files.authority.display()),
        None => String::new(),
    };
    format!("{scheme}{kind}://{user}{}{path}{query}", hosts.join(","))
}
