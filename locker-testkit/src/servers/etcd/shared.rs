//! One server of each kind for all tests of a process, for those that keep to a namespace of their
//! own. It ends with the process.
//!
//! Where a variable of the environment names a server, that one is used, and nothing is started.

use super::{Cluster, Server, Setup};
use crate::Missing;
use std::env;
use std::sync::OnceLock;

/// The variable that names a server.
pub const SERVER_VARIABLE: &str = "LOCKER_TEST_ETCD_URL";
/// The variable that names a cluster.
pub const CLUSTER_VARIABLE: &str = "LOCKER_TEST_ETCD_CLUSTER_URL";

/// A server that tests share: one that this process has started, or somebody else's.
#[derive(Debug)]
pub struct Shared<S> {
    url: String,
    own: Option<S>,
}

impl<S> Shared<S> {
    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The servers, unless they are somebody else's. Whoever uses them shares them.
    pub fn own(&self) -> Option<&S> {
        self.own.as_ref()
    }
}

/// The server.
///
/// # Errors
///
/// [`Missing`] when it cannot be had.
pub fn server() -> Result<&'static Shared<Server>, Missing> {
    static SHARED: OnceLock<Result<Shared<Server>, Missing>> = OnceLock::new();
    shared(&SHARED, SERVER_VARIABLE, Server::url, || {
        Server::start(&Setup::new())
    })
}

/// A cluster of three members.
///
/// # Errors
///
/// [`Missing`] when it cannot be had.
pub fn cluster() -> Result<&'static Shared<Cluster>, Missing> {
    static SHARED: OnceLock<Result<Shared<Cluster>, Missing>> = OnceLock::new();
    shared(&SHARED, CLUSTER_VARIABLE, Cluster::url, || {
        Cluster::start(&Setup::new(), 3)
    })
}

fn shared<S>(
    cell: &'static OnceLock<Result<Shared<S>, Missing>>,
    variable: &str,
    url: impl Fn(&S) -> &str,
    start: impl Fn() -> Result<S, Missing>,
) -> Result<&'static Shared<S>, Missing> {
    let made = cell.get_or_init(|| {
        if let Some(url) = env::var(variable).ok().filter(|url| !url.is_empty()) {
            return Ok(Shared { url, own: None });
        }
        let own = start()?;
        Ok(Shared {
            url: url(&own).to_owned(),
            own: Some(own),
        })
    });
    made.as_ref().map_err(Clone::clone)
}
