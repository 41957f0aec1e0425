//! A master with replicas, watched by sentinels that promote a replica when the master is gone.

use super::node::{Kind, Node, START_LIMIT, unavailable};
use super::replicated::{Replicated, cut_off, many_url};
use super::setup::Setup;
use crate::Missing;
use crate::servers::wait::wait_until;
use std::io;
use std::time::Duration;

/// The name under which the sentinels know the master.
pub const MASTER_NAME: &str = "locker";

/// How many sentinels there are, and how many must agree.
const SENTINELS: usize = 3;
const QUORUM: usize = 2;

/// After how much silence a sentinel takes the master for gone.
const DOWN_AFTER: Duration = Duration::from_millis(500);
/// Half the pause after a promotion that failed.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a promotion may take, all told.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);

/// A master, replicas, and three sentinels.
#[derive(Debug)]
pub struct Sentinel {
    data: Replicated,
    sentinels: Vec<Node>,
    url: String,
}

impl Sentinel {
    /// Starts them all, and waits until the sentinels know the replicas and each other.
    ///
    /// # Errors
    ///
    /// [`Missing`] when they cannot be had.
    pub fn start(setup: &Setup, replicas: usize) -> Result<Self, Missing> {
        let data = Replicated::start(setup, replicas)?;
        let mut sentinels: Vec<Node> = Vec::new();
        for place in 0..SENTINELS {
            let lines = sentinel_lines(setup, &data, &sentinels, place);
            sentinels.push(Node::start(setup, Kind::Sentinel, |_, _| lines.clone())?);
        }
        let sentinel = Self {
            url: many_url(setup, &sentinels, "+sentinel", &format!("/{MASTER_NAME}")),
            data,
            sentinels,
        };
        sentinel
            .agreed(replicas)
            .map_err(|error| unavailable(&error))?;
        Ok(sentinel)
    }

    /// `redis+sentinel://host:port,…/MASTER_NAME`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The sentinels.
    pub fn sentinels(&self) -> &[Node] {
        &self.sentinels
    }

    /// The sentinels, to be killed and started.
    pub fn sentinels_mut(&mut self) -> &mut [Node] {
        &mut self.sentinels
    }

    /// Master and replicas, in the order of the start.
    pub fn nodes(&self) -> &[Node] {
        self.data.nodes()
    }

    /// Master and replicas, to be killed and started.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        self.data.nodes_mut()
    }

    /// Which of [`nodes`](Self::nodes) the sentinels call the master now.
    pub fn master(&self) -> io::Result<usize> {
        let mut last = io::Error::other("no sentinel");
        for sentinel in &self.sentinels {
            match self.master_by(sentinel) {
                Ok(place) => return Ok(place),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Makes this replica miss the writes of its master from now on; it can be promoted all the
    /// same, if that happens within five seconds.
    pub fn cut_off(&self, place: usize) -> io::Result<()> {
        cut_off(&self.nodes()[place])
    }

    /// Kills the master, waits until another one is promoted, and says which of
    /// [`nodes`](Self::nodes) it is. The killed one can be started again: it becomes a replica.
    pub fn fail_over(&mut self) -> io::Result<usize> {
        let old = self.master()?;
        self.nodes_mut()[old].kill()?;
        self.promoted_after(old)
    }

    /// Waits until the sentinels agree on another master than this one, and it takes writes.
    pub fn promoted_after(&self, old: usize) -> io::Result<usize> {
        wait_until(FAILOVER_LIMIT, || {
            let mut found = old;
            for sentinel in &self.sentinels {
                found = self.master_by(sentinel).map_err(|e| e.to_string())?;
                if found == old {
                    return Err("a sentinel still names the old master".to_owned());
                }
            }
            let role = self.nodes()[found].info("replication", "role");
            match role {
                Ok(role) if role == "master" => Ok(found),
                Ok(role) => Err(format!("the new master is still a {role}")),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn master_by(&self, sentinel: &Node) -> io::Result<usize> {
        let address: Vec<String> =
            sentinel.query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME])?;
        let port = address.get(1).map(String::as_str).unwrap_or_default();
        self.nodes()
            .iter()
            .position(|node| node.port().to_string() == port)
            .ok_or_else(|| io::Error::other(format!("the master is at an unknown port {port}")))
    }

    fn agreed(&self, replicas: usize) -> io::Result<()> {
        for sentinel in &self.sentinels {
            wait_until(START_LIMIT, || {
                sentinel
                    .command(&["SENTINEL", "CKQUORUM", MASTER_NAME])
                    .map_err(|e| e.to_string())?;
                let state = sentinel
                    .info("sentinel", "master0")
                    .map_err(|e| e.to_string())?;
                let expected = format!("status=ok,address=127.0.0.1:{}", self.nodes()[0].port());
                let counts = format!("slaves={replicas},sentinels={SENTINELS}");
                if state.contains(&expected) && state.ends_with(&counts) {
                    Ok(())
                } else {
                    Err(state)
                }
            })?;
        }
        Ok(())
    }
}

/// The lines of one sentinel. It is told of the replicas and of the sentinels before it, instead of
/// finding them within seconds; those before it hear of it from itself.
fn sentinel_lines(setup: &Setup, data: &Replicated, earlier: &[Node], place: usize) -> Vec<String> {
    let master = data.master().port();
    let mut lines = vec![
        format!("sentinel myid {}", identity(place)),
        format!("sentinel monitor {MASTER_NAME} 127.0.0.1 {master} {QUORUM}"),
        format!(
            "sentinel down-after-milliseconds {MASTER_NAME} {}",
            DOWN_AFTER.as_millis()
        ),
        format!(
            "sentinel failover-timeout {MASTER_NAME} {}",
            FAILOVER_TIMEOUT.as_millis()
        ),
    ];
    if let Some(password) = &setup.password {
        lines.push(format!("sentinel auth-pass {MASTER_NAME} {password}"));
    }
    for replica in data.replicas() {
        let port = replica.port();
        lines.push(format!(
            "sentinel known-replica {MASTER_NAME} 127.0.0.1 {port}"
        ));
    }
    for (other, sentinel) in earlier.iter().enumerate() {
        lines.push(format!(
            "sentinel known-sentinel {MASTER_NAME} 127.0.0.1 {} {}",
            sentinel.port(),
            identity(other)
        ));
    }
    lines
}

/// Forty hexadecimal digits, as a sentinel wants them.
fn identity(place: usize) -> String {
    format!("{:040x}", place + 1)
}
