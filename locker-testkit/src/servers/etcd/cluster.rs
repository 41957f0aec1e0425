//! One server, or several that are one cluster.

use super::member::{Member, Ports, START_LIMIT, unavailable};
use super::setup::Setup;
use crate::Missing;
use crate::servers::wait::wait_until;
use std::io;

/// A cluster of one member.
#[derive(Debug)]
pub struct Server(Cluster);

/// Members that are one cluster.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<Member>,
    url: String,
}

impl Server {
    /// Starts it, and waits until it serves.
    ///
    /// # Errors
    ///
    /// [`Missing`] when it cannot be had.
    pub fn start(setup: &Setup) -> Result<Self, Missing> {
        Cluster::start(setup, 1).map(Self)
    }

    /// `etcd://host:port`, or `etcds://host:port?ca=…` with TLS.
    pub fn url(&self) -> &str {
        self.0.url()
    }

    /// The process.
    pub fn member(&self) -> &Member {
        &self.0.members[0]
    }

    /// The process, to be killed and started.
    pub fn member_mut(&mut self) -> &mut Member {
        &mut self.0.members[0]
    }

    /// Kills it and starts it without its data: another life of the same cluster id.
    pub fn start_empty(&mut self) -> io::Result<()> {
        let member = self.member_mut();
        member.forget()?;
        member.start_again()
    }
}

impl Cluster {
    /// Starts so many members, and waits until every one of them serves.
    ///
    /// # Errors
    ///
    /// [`Missing`] when they cannot be had.
    pub fn start(setup: &Setup, size: usize) -> Result<Self, Missing> {
        let ports = (0..size).map(|_| Ports::free());
        let ports = ports
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| unavailable(&error))?;
        let peers = ports
            .iter()
            .enumerate()
            .map(|(place, ports)| format!("m{place}={}", ports.peer_url()));
        let cluster = peers.collect::<Vec<_>>().join(",");
        let mut members = Vec::with_capacity(size);
        for (place, ports) in ports.into_iter().enumerate() {
            members.push(Member::prepare(
                setup,
                &format!("m{place}"),
                ports,
                &cluster,
            )?);
        }
        for member in &mut members {
            member.start().map_err(|error| unavailable(&error))?;
        }
        let cluster = Self {
            url: url(&members),
            members,
        };
        cluster.serves().map_err(|error| unavailable(&error))?;
        Ok(cluster)
    }

    /// Waits until every member that runs serves.
    pub fn serves(&self) -> io::Result<()> {
        let running = |member: &&Member| member.pid().is_some();
        self.members
            .iter()
            .filter(running)
            .try_for_each(Member::serves)
    }

    /// The address of all members.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The members, to be killed and started.
    pub fn members_mut(&mut self) -> &mut [Member] {
        &mut self.members
    }

    /// Waits until a member leads, and answers which.
    pub fn leader(&self) -> io::Result<usize> {
        let leads = |member: &Member| member.pid().is_some() && member.leads().unwrap_or(false);
        wait_until(START_LIMIT, || {
            let leader = self.members.iter().position(leads);
            leader.ok_or_else(|| "no member leads".to_owned())
        })
    }
}

fn url(members: &[Member]) -> String {
    let addresses: Vec<String> = members.iter().map(Member::address).collect();
    let addresses = addresses.join(",");
    match members.first().and_then(Member::certificates) {
        None => format!("etcd://{addresses}"),
        Some(files) => format!(
            "etcds://{addresses}?ca={}&cert={}&key={}",
            files.authority.display(),
            files.client.display(),
            files.client_key.display()
        ),
    }
}
