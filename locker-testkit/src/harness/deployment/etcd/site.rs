//! The etcd members of one case, and the network of each worker to them.

use super::Etcd;
use super::admin::Admin;
use crate::harness::deployment::{Data, Site};
use crate::harness::network::Network;
use crate::harness::scene::{Scene, WORKERS};
use crate::servers::etcd::{Cluster, Member, Setup};
use std::any::Any;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// The members of a case.
#[derive(Debug)]
pub struct Members {
    /// They themselves.
    pub cluster: Cluster,
    networks: Vec<Network>,
    stopped: Vec<usize>,
}

impl Members {
    /// Starts the members of a deployment. Their data are where the case has its files: processes are
    /// killed here, and no machine loses its power, so nothing is worth a disk's work.
    pub(super) fn start(deployment: Etcd, folder: &Path) -> Result<Self, Box<dyn Error>> {
        let size = match deployment {
            Etcd::Alone => 1,
            Etcd::Cluster => 3,
        };
        // An election takes a fifth of the default, as T does: by default it takes longer than these
        // processes live without a report.
        let setup = Setup::new()
            .below(folder)
            .flag("heartbeat-interval", "20")
            .flag("election-timeout", "200");
        let cluster = Cluster::start(&setup, size)?;
        let addresses: Vec<SocketAddr> = cluster
            .members()
            .iter()
            .map(|member| SocketAddr::from((Ipv4Addr::LOCALHOST, member.port())))
            .collect();
        let networks = (0..WORKERS as u64).map(|seed| Network::before(&addresses, seed));
        Ok(Self {
            networks: networks.collect::<io::Result<_>>()?,
            cluster,
            stopped: Vec::new(),
        })
    }

    /// The members of this case.
    ///
    /// # Errors
    ///
    /// When its store is another one.
    pub fn of(scene: &mut Scene) -> Result<&mut Self, String> {
        let site: &mut dyn Any = &mut *scene.site;
        site.downcast_mut()
            .ok_or_else(|| "this case is for etcd".to_owned())
    }

    /// A client beside the locker's, past the network.
    ///
    /// # Errors
    ///
    /// See [`Admin::of`].
    pub fn admin(&self) -> Result<Admin, String> {
        let running = self
            .cluster
            .members()
            .iter()
            .filter(|one| one.pid().is_some());
        Admin::of(&running.map(Member::address).collect::<Vec<_>>())
    }

    /// The same, of one member.
    ///
    /// # Errors
    ///
    /// See [`Admin::of`].
    pub fn admin_of(&self, place: usize) -> Result<Admin, String> {
        let member = self.cluster.members().get(place).ok_or("no such member")?;
        Admin::of(&[member.address()])
    }
}

impl Site for Members {
    fn url(&self) -> String {
        self.cluster.url().to_owned()
    }

    fn url_for(&self, worker: usize) -> String {
        let Some(network) = self.networks.get(worker) else {
            return self.url();
        };
        let addresses = network.addresses();
        let hosts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("etcd://{}", hosts.join(","))
    }

    fn network(&self, worker: usize) -> Option<&Network> {
        self.networks.get(worker)
    }

    fn processes(&self) -> Vec<u32> {
        let pid = |member: &Member| member.pid().map(i32::unsigned_abs);
        self.cluster.members().iter().filter_map(pid).collect()
    }

    fn logs(&self) -> Vec<(String, String)> {
        let log = |member: &Member| (format!("etcd-{}", member.port()), member.log());
        self.cluster.members().iter().map(log).collect()
    }

    fn restart(&mut self, down: Duration, data: Data) -> Result<(), Box<dyn Error>> {
        for member in self.cluster.members_mut() {
            match data {
                Data::Kept => member.kill()?,
                Data::Gone => member.forget()?,
            }
        }
        std::thread::sleep(down);
        for member in self.cluster.members_mut() {
            member.start()?;
        }
        self.cluster.serves()?;
        Ok(())
    }

    fn stand_still(&mut self) -> Result<(), Box<dyn Error>> {
        for (place, member) in self.cluster.members().iter().enumerate() {
            if member.pid().is_some() {
                member.pause()?;
                self.stopped.push(place);
            }
        }
        Ok(())
    }

    fn go_on(&mut self) {
        for place in std::mem::take(&mut self.stopped) {
            // One that was killed meanwhile has nothing to go on with.
            let _ = self.cluster.members()[place].resume();
        }
    }

    fn empty(&mut self) -> Result<(), Box<dyn Error>> {
        self.admin()?.empty()?;
        Ok(())
    }
}
