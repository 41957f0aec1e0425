//! A cluster, made by the commands that `redis-cli --cluster` would send.

use super::node::{Kind, Node, START_LIMIT, unavailable};
use super::replicated::{cut_off, linked, many_url};
use super::setup::Setup;
use crate::Missing;
use crate::servers::wait::wait_until;
use std::io;
use std::time::Duration;

/// All hash slots there are.
const SLOTS: usize = 16_384;
/// After how much silence a node counts as gone.
const NODE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// How long a promotion may take, all told.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
/// How many keys one step of a migration carries.
const KEYS_A_STEP: &str = "100";

/// Masters, and replicas for each. The masters stand first in [`nodes`](Self::nodes); replica `r` of
/// `m` masters follows master `r % m`.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    masters: usize,
    password: Option<String>,
    url: String,
}

impl Cluster {
    /// Starts so many masters with so many replicas each, and waits until every node calls the
    /// cluster complete.
    ///
    /// Unlike a server's default, the nodes answer for their own slots when others are lost: that is
    /// what the locker's README asks for, and what tests of a lost node are about.
    ///
    /// # Errors
    ///
    /// [`Missing`] when they cannot be had.
    pub fn start(setup: &Setup, masters: usize, replicas_each: usize) -> Result<Self, Missing> {
        let mut nodes = Vec::new();
        for place in 0..masters * (1 + replicas_each) {
            nodes.push(Node::start(setup, Kind::Data, |_, bus| {
                node_lines(setup, place, bus.number())
            })?);
        }
        let cluster = Self {
            url: many_url(setup, &nodes[..masters], "+cluster", ""),
            nodes,
            masters,
            password: setup.password.clone(),
        };
        cluster.join().map_err(|error| unavailable(&error))?;
        Ok(cluster)
    }

    /// `redis+cluster://host:port,…` with the first masters.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All nodes, the first masters first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All nodes, to be killed and started.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// The first replica of a master of the start.
    pub fn replica_of(&self, master: usize) -> usize {
        self.masters + master % self.masters
    }

    /// Makes this replica miss the writes of its master from now on; it can be promoted all the same.
    pub fn cut_off(&self, place: usize) -> io::Result<()> {
        cut_off(&self.nodes[place])
    }

    /// The hash slot of a Redis key.
    pub fn slot_of(&self, key: &str) -> io::Result<u16> {
        self.ask(|node| node.query(&["CLUSTER", "KEYSLOT", key]))
    }

    /// Which node serves a slot now, by the word of the first node that answers.
    pub fn node_of(&self, slot: u16) -> io::Result<usize> {
        let table = self.ask(|node| node.command(&["CLUSTER", "NODES"]))?;
        self.node_in(&table, slot)
    }

    /// Begins to move a slot: from now on the old node answers ASK for keys it does not hold.
    pub fn begin_move(&self, slot: u16, to: usize) -> io::Result<()> {
        let from = self.node_of(slot)?;
        let (slot, ids) = (slot.to_string(), (self.id(from)?, self.id(to)?));
        self.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids.0])?;
        self.nodes[from].command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids.1])?;
        Ok(())
    }

    /// Carries the keys of a slot that is being moved, a few at a time.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) -> io::Result<()> {
        let (slot, port) = (slot.to_string(), self.nodes[to].port().to_string());
        loop {
            let keys: Vec<String> =
                self.nodes[from].query(&["CLUSTER", "GETKEYSINSLOT", &slot, KEYS_A_STEP])?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
            if let Some(password) = &self.password {
                words.extend(["AUTH", password]);
            }
            words.push("KEYS");
            words.extend(keys.iter().map(String::as_str));
            self.nodes[from].command(&words)?;
        }
    }

    /// Ends the move of a slot: the new node owns it, and the others are told.
    pub fn end_move(&self, slot: u16, to: usize) -> io::Result<()> {
        let (slot, id) = (slot.to_string(), self.id(to)?);
        // The new owner first: should this stop half-way, the slot has an owner that holds its keys.
        self.nodes[to].command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id])?;
        for (place, node) in self.nodes.iter().enumerate() {
            let master = node.info("replication", "role")? == "master";
            if place != to && master {
                node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &id])?;
            }
        }
        Ok(())
    }

    /// Moves a slot with its keys, while clients use it.
    pub fn move_slot(&self, slot: u16, to: usize) -> io::Result<()> {
        let from = self.node_of(slot)?;
        if from == to {
            return Ok(());
        }
        self.begin_move(slot, to)?;
        self.move_keys(slot, from, to)?;
        self.end_move(slot, to)
    }

    /// Waits until all nodes know of all slots and take writes. A master that has just been started takes
    /// none for two seconds.
    ///
    /// # Errors
    ///
    /// They do not in time.
    pub fn takes_writes(&self) -> io::Result<()> {
        for node in &self.nodes {
            wait_for_info(node, "cluster_slots_ok", &SLOTS.to_string())?;
            wait_for_info(node, "cluster_state", "ok")?;
        }
        Ok(())
    }

    /// Waits until another node than this one serves the slot, and every living node says so.
    pub fn promoted_after(&self, slot: u16, old: usize) -> io::Result<usize> {
        wait_until(FAILOVER_LIMIT, || {
            let mut new = None;
            for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
                let table = node
                    .command(&["CLUSTER", "NODES"])
                    .map_err(|e| e.to_string())?;
                match self.node_in(&table, slot) {
                    Ok(found) if found != old => new = Some(found),
                    Ok(_) => return Err("a node still names the old master".to_owned()),
                    Err(error) => return Err(error.to_string()),
                }
            }
            new.ok_or_else(|| "no node lives".to_owned())
        })
    }

    /// Asks the nodes one after the other until one answers.
    fn ask<T>(&self, what: impl Fn(&Node) -> io::Result<T>) -> io::Result<T> {
        let mut last = io::Error::other("no node runs");
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            match what(node) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The name of a node within its cluster.
    fn id(&self, place: usize) -> io::Result<String> {
        self.nodes[place].command(&["CLUSTER", "MYID"])
    }

    /// Who serves this slot in the text of `CLUSTER NODES`.
    fn node_in(&self, table: &str, slot: u16) -> io::Result<usize> {
        for line in table.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let serves = fields.iter().skip(8).any(|field| covers(field, slot));
            // `ip:port@bus,host`: the bus port is never a proxy's.
            let bus = fields
                .get(1)
                .and_then(|address| address.split('@').nth(1))
                .and_then(|bus| bus.split(',').next());
            if serves && let Some(bus) = bus {
                let found = self
                    .nodes
                    .iter()
                    .position(|node| node.bus_port().to_string() == bus);
                return found.ok_or_else(|| io::Error::other(format!("no node has the bus {bus}")));
            }
        }
        Err(io::Error::other(format!("nobody serves slot {slot}")))
    }

    fn join(&self) -> io::Result<()> {
        let size = self.nodes.len();
        for (place, node) in self.nodes.iter().enumerate() {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()])?;
        }
        for node in &self.nodes[1..] {
            let (port, bus) = (node.port().to_string(), node.bus_port().to_string());
            self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        for (place, node) in self.nodes[..self.masters].iter().enumerate() {
            let first = SLOTS * place / self.masters;
            let last = SLOTS * (place + 1) / self.masters - 1;
            node.command(&[
                "CLUSTER",
                "ADDSLOTSRANGE",
                &first.to_string(),
                &last.to_string(),
            ])?;
        }
        for node in &self.nodes {
            wait_for_info(node, "cluster_known_nodes", &size.to_string())?;
        }
        for (place, replica) in self.nodes[self.masters..].iter().enumerate() {
            let id = self.id(place % self.masters)?;
            // It may know the name only from gossip, and not yet as a master.
            wait_until(START_LIMIT, || {
                replica
                    .command(&["CLUSTER", "REPLICATE", &id])
                    .map_err(|e| e.to_string())
            })?;
        }
        for replica in &self.nodes[self.masters..] {
            linked(replica)?;
        }
        self.takes_writes()?;
        self.nodes
            .iter()
            .try_for_each(|node| self.knows_replicas(node))
    }

    /// Waits until this node sees every replica as one.
    fn knows_replicas(&self, node: &Node) -> io::Result<()> {
        let replicas = self.nodes.len() - self.masters;
        wait_until(START_LIMIT, || {
            let table = node
                .command(&["CLUSTER", "NODES"])
                .map_err(|e| e.to_string())?;
            let seen = table.lines().filter(|line| line.contains("slave")).count();
            if seen == replicas { Ok(()) } else { Err(table) }
        })
    }
}

fn node_lines(setup: &Setup, place: usize, bus: u16) -> Vec<String> {
    let mut lines = vec![
        "cluster-enabled yes".to_owned(),
        "cluster-config-file nodes.conf".to_owned(),
        format!("cluster-port {bus}"),
        format!("cluster-node-timeout {}", NODE_TIMEOUT.as_millis()),
        "cluster-require-full-coverage no".to_owned(),
        // A replica is promoted however old its data are: losing writes is what tests want to see.
        "cluster-replica-validity-factor 0".to_owned(),
        "cluster-allow-replica-migration no".to_owned(),
    ];
    if let Some(port) = setup.announced.get(place) {
        lines.push("cluster-announce-ip 127.0.0.1".to_owned());
        lines.push(match setup.certificates {
            Some(_) => format!("cluster-announce-tls-port {port}"),
            None => format!("cluster-announce-port {port}"),
        });
        lines.push(format!("cluster-announce-bus-port {bus}"));
    }
    if setup.certificates.is_some() {
        // Clients are sent on to a name that the certificate bears.
        lines.push("cluster-announce-hostname localhost".to_owned());
        lines.push("cluster-preferred-endpoint-type hostname".to_owned());
    }
    lines
}

/// Whether a field of `CLUSTER NODES`, `5` or `0-5460`, covers this slot. `[5->-id]` is a move.
fn covers(field: &str, slot: u16) -> bool {
    let (first, last) = field.split_once('-').unwrap_or((field, field));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&slot),
        _ => false,
    }
}

fn wait_for_info(node: &Node, field: &str, expected: &str) -> io::Result<()> {
    wait_until(START_LIMIT, || {
        let text = node
            .command(&["CLUSTER", "INFO"])
            .map_err(|e| e.to_string())?;
        let wanted = format!("{field}:{expected}");
        if text.lines().any(|line| line.trim() == wanted) {
            Ok(())
        } else {
            Err(format!("{wanted} is not yet so:\n{text}"))
        }
    })
}
