//! The network between one worker and its store: a proxy in front of every server.
//!
//! Every worker has its own, so the trouble of one is not the trouble of all. A store that tells its
//! clients the addresses of servers, as clusters and sentinels do, has them translated into those of
//! the worker's proxies.

use super::proxy::{Counts, Direction, Proxy};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

/// What a network can do to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing arrives, either way. What was on its way arrives when it is over.
    CutOff,
    /// Requests arrive, and no reply does.
    RepliesLost,
    /// The servers' ends of all connections are gone, and nobody says so. A new connection works.
    HalfOpen,
    /// The same, and nobody answers on a new connection either.
    Silence,
    /// Everything takes up to so long, each way.
    Delay(Duration),
    /// The requests of all connections are kept; new connections work.
    Hold,
}

/// The way of one worker to the servers of its store. Without trouble it only passes on.
#[derive(Debug)]
pub struct Network {
    proxies: Vec<Proxy>,
    /// Replies have been lost, so the connections that missed them are worth nothing.
    lossy: AtomicBool,
    /// Dropped last: the proxies live on it.
    _runtime: Runtime,
}

impl Network {
    /// A way to these servers.
    ///
    /// # Errors
    ///
    /// When there is no free port, or no thread.
    pub fn before(servers: &[SocketAddr], seed: u64) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let proxies = servers
            .iter()
            .map(|server| runtime.block_on(Proxy::start(*server, seed)))
            .collect::<io::Result<Vec<_>>>()?;
        let ports: Vec<(u16, u16)> = servers
            .iter()
            .zip(&proxies)
            .map(|(server, proxy)| (server.port(), proxy.address().port()))
            .collect();
        for proxy in &proxies {
            proxy.translate(&ports);
        }
        Ok(Self {
            proxies,
            lossy: AtomicBool::new(false),
            _runtime: runtime,
        })
    }

    /// Where the worker finds the servers, in their order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.proxies.iter().map(Proxy::address).collect()
    }

    /// From now on these are the servers, in the same order: their names were given to others.
    pub fn leads_to(&self, servers: &[SocketAddr]) {
        for (proxy, server) in self.proxies.iter().zip(servers) {
            proxy.leads_to(*server);
        }
    }

    /// From now on this happens.
    pub fn turns(&self, weather: Weather) {
        for proxy in &self.proxies {
            match weather {
                Weather::CutOff => {
                    proxy.stall(Direction::Requests);
                    proxy.stall(Direction::Replies);
                }
                Weather::RepliesLost => {
                    self.lossy.store(true, Ordering::Relaxed);
                    proxy.swallow(Direction::Replies);
                }
                Weather::HalfOpen => proxy.half_open(),
                Weather::Silence => {
                    proxy.mute();
                    proxy.half_open();
                }
                Weather::Delay(most) => proxy.delay(Duration::ZERO, most),
                Weather::Hold => proxy.hold(),
            }
        }
    }

    /// Resets all connections there are.
    pub fn reset(&self) {
        self.proxies.iter().for_each(Proxy::reset);
    }

    /// Ends all troubles, and delivers what was held back.
    ///
    /// No network loses bytes out of the middle of a connection, so connections that have missed
    /// replies are reset.
    pub fn heal(&self) {
        if self.lossy.swap(false, Ordering::Relaxed) {
            self.reset();
        }
        self.proxies.iter().for_each(Proxy::heal);
    }

    /// What all proxies have seen, together.
    pub fn counts(&self) -> Counts {
        let sum = |sum: Counts, one: Counts| Counts {
            connections: sum.connections + one.connections,
            requests: sum.requests + one.requests,
            replies: sum.replies + one.replies,
            swallowed: sum.swallowed + one.swallowed,
            delivered_late: sum.delivered_late + one.delivered_late,
        };
        self.proxies
            .iter()
            .map(Proxy::counts)
            .fold(Counts::default(), sum)
    }
}
