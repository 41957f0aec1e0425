//! The servers that all tests of a process [share](crate::servers::shared).

use super::{Cluster, Server, Setup};
use crate::Missing;
use crate::servers::shared::{Cell, Shared};

/// The variable that names a server.
pub const SERVER_VARIABLE: &str = "LOCKER_TEST_ETCD_URL";
/// The variable that names a cluster.
pub const CLUSTER_VARIABLE: &str = "LOCKER_TEST_ETCD_CLUSTER_URL";

/// The server.
///
/// # Errors
///
/// [`Missing`] when it cannot be had.
pub fn server() -> Result<&'static Shared<Server>, Missing> {
    static SHARED: Cell<Server> = Cell::new();
    Shared::of(&SHARED, SERVER_VARIABLE, Server::url, || {
        Server::start(&Setup::new())
    })
}

/// A cluster of three members.
///
/// # Errors
///
/// [`Missing`] when it cannot be had.
pub fn cluster() -> Result<&'static Shared<Cluster>, Missing> {
    static SHARED: Cell<Cluster> = Cell::new();
    Shared::of(&SHARED, CLUSTER_VARIABLE, Cluster::url, || {
        Cluster::start(&Setup::new(), 3)
    })
}
