//! The Redis servers of one case, and the network of each worker to them.

use super::Redis;
use crate::harness::deployment::{Data, Site};
use crate::harness::network::Network;
use crate::harness::scene::{Scene, WORKERS};
use crate::servers::redis::{Cluster, MASTER_NAME, Node, Sentinel, Server, Setup};
use std::any::Any;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// What the store's keys begin with.
const NAMESPACE: &str = "locker";

/// The servers of a case.
#[derive(Debug)]
pub struct Servers {
    /// They themselves.
    pub all: All,
    networks: Vec<Network>,
    stopped: Vec<usize>,
}

/// The servers of each deployment.
#[derive(Debug)]
pub enum All {
    /// One.
    Alone(Server),
    /// A master, a replica, and sentinels.
    Sentinel(Sentinel),
    /// Masters and replicas.
    Cluster(Cluster),
}

impl Servers {
    /// Starts the servers of a deployment.
    pub(super) fn start(deployment: Redis) -> Result<Self, Box<dyn Error>> {
        Self::start_with(deployment, &Setup::new())
    }

    fn start_with(deployment: Redis, setup: &Setup) -> Result<Self, Box<dyn Error>> {
        let all = match deployment {
            Redis::Alone => All::Alone(Server::start(setup)?),
            Redis::Sentinel => All::Sentinel(Sentinel::start(setup, 1)?),
            Redis::Cluster => All::Cluster(Cluster::start(setup, 3, 1)?),
        };
        let mut servers = Self {
            all,
            networks: Vec::new(),
            stopped: Vec::new(),
        };
        let addresses: Vec<SocketAddr> = servers
            .reached()
            .map(|node| SocketAddr::from((Ipv4Addr::LOCALHOST, node.port())))
            .collect();
        for seed in 0..WORKERS as u64 {
            servers.networks.push(Network::before(&addresses, seed)?);
        }
        Ok(servers)
    }

    /// The servers of this case.
    ///
    /// # Errors
    ///
    /// When its store is another one.
    pub fn of(scene: &mut Scene) -> Result<&mut Self, String> {
        let site: &mut dyn Any = &mut *scene.site;
        site.downcast_mut()
            .ok_or_else(|| "this case is for Redis".to_owned())
    }

    /// The servers that hold records: masters first, at the start.
    pub fn nodes(&self) -> &[Node] {
        match &self.all {
            All::Alone(server) => std::slice::from_ref(server.node()),
            All::Sentinel(sentinel) => sentinel.nodes(),
            All::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// The same, to be killed and started.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        match &mut self.all {
            All::Alone(server) => std::slice::from_mut(server.node_mut()),
            All::Sentinel(sentinel) => sentinel.nodes_mut(),
            All::Cluster(cluster) => cluster.nodes_mut(),
        }
    }

    /// The Redis key of a lock.
    pub fn lock(key: usize) -> String {
        format!("{NAMESPACE}:{{{}}}", crate::harness::worker::name(key))
    }

    /// What the names of process keys begin with.
    pub fn processes() -> String {
        format!("{NAMESPACE}:process:")
    }

    /// The servers that take writes now.
    pub fn masters(&self) -> Vec<&Node> {
        let is_master =
            |node: &&Node| matches!(node.info("replication", "role"), Ok(role) if role == "master");
        self.nodes()
            .iter()
            .filter(|node| node.pid().is_some())
            .filter(is_master)
            .collect()
    }

    /// The server that has this lock now.
    pub fn holder_of(&self, key: usize) -> Result<&Node, String> {
        let text = |error: io::Error| error.to_string();
        let place = match &self.all {
            All::Alone(_) => 0,
            All::Sentinel(sentinel) => sentinel.master().map_err(text)?,
            All::Cluster(cluster) => {
                let slot = cluster.slot_of(&Self::lock(key)).map_err(text)?;
                cluster.node_of(slot).map_err(text)?
            }
        };
        Ok(&self.nodes()[place])
    }

    /// All that a client may speak to. The first ones stand in its URL.
    fn reached(&self) -> impl Iterator<Item = &Node> {
        let sentinels = match &self.all {
            All::Sentinel(sentinel) => sentinel.sentinels(),
            All::Alone(_) | All::Cluster(_) => &[],
        };
        sentinels.iter().chain(self.nodes())
    }

    fn kill_all(&mut self) -> io::Result<()> {
        self.nodes_mut().iter_mut().try_for_each(Node::kill)
    }
}

impl Site for Servers {
    fn url(&self) -> String {
        match &self.all {
            All::Alone(server) => server.url().to_owned(),
            All::Sentinel(sentinel) => sentinel.url().to_owned(),
            All::Cluster(cluster) => cluster.url().to_owned(),
        }
    }

    fn url_for(&self, worker: usize) -> String {
        let Some(network) = self.networks.get(worker) else {
            return self.url();
        };
        let addresses = network.addresses();
        let hosts = |count: usize| {
            let hosts = addresses.iter().take(count).map(ToString::to_string);
            hosts.collect::<Vec<_>>().join(",")
        };
        match &self.all {
            All::Alone(_) => format!("redis://{}", hosts(1)),
            All::Sentinel(sentinel) => {
                let count = sentinel.sentinels().len();
                format!("redis+sentinel://{}/{MASTER_NAME}", hosts(count))
            }
            All::Cluster(_) => format!("redis+cluster://{}", hosts(3)),
        }
    }

    fn network(&self, worker: usize) -> Option<&Network> {
        self.networks.get(worker)
    }

    fn processes(&self) -> Vec<u32> {
        let pid = |node: &Node| node.pid().map(i32::unsigned_abs);
        self.reached().filter_map(pid).collect()
    }

    fn logs(&self) -> Vec<(String, String)> {
        let log = |node: &Node| (format!("redis-{}", node.port()), node.log());
        self.reached().map(log).collect()
    }

    fn restart(&mut self, down: Duration, data: Data) -> Result<(), Box<dyn Error>> {
        self.kill_all()?;
        std::thread::sleep(down);
        // At the same time, as machines do that get their power back.
        let started = std::thread::scope(|scope| {
            let starting: Vec<_> = self
                .nodes_mut()
                .iter_mut()
                .map(|node| {
                    scope.spawn(move || match data {
                        Data::Kept => node.start_again(),
                        Data::Gone => node.start_empty(),
                    })
                })
                .collect();
            starting
                .into_iter()
                .map(|one| {
                    one.join()
                        .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
                })
                .collect::<io::Result<Vec<()>>>()
        });
        started?;
        if let All::Cluster(cluster) = &self.all {
            cluster.takes_writes()?;
        }
        Ok(())
    }

    fn stand_still(&mut self) -> Result<(), Box<dyn Error>> {
        for place in 0..self.nodes().len() {
            let node = &self.nodes()[place];
            if node.pid().is_some() {
                node.pause()?;
                self.stopped.push(place);
            }
        }
        Ok(())
    }

    fn go_on(&mut self) {
        for place in std::mem::take(&mut self.stopped) {
            // One that was killed meanwhile has nothing to go on with.
            let _ = self.nodes()[place].resume();
        }
    }

    fn empty(&mut self) -> Result<(), Box<dyn Error>> {
        for master in self.masters() {
            master.empty()?;
        }
        Ok(())
    }
}
