//! The servers that all tests of a process [share](crate::servers::shared).

use super::{Cluster, Sentinel, Server, Setup};
use crate::Missing;
use crate::servers::shared::{Cell, Shared};

/// The variable that names a standalone server.
pub const SERVER_VARIABLE: &str = "LOCKER_TEST_REDIS_URL";
/// The variable that names a master under sentinels.
pub const SENTINEL_VARIABLE: &str = "LOCKER_TEST_REDIS_SENTINEL_URL";
/// The variable that names a cluster.
pub const CLUSTER_VARIABLE: &str = "LOCKER_TEST_REDIS_CLUSTER_URL";

/// The standalone server.
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

/// A master with one replica under three sentinels.
///
/// # Errors
///
/// [`Missing`] when it cannot be had.
pub fn sentinel() -> Result<&'static Shared<Sentinel>, Missing> {
    static SHARED: Cell<Sentinel> = Cell::new();
    Shared::of(&SHARED, SENTINEL_VARIABLE, Sentinel::url, || {
        Sentinel::start(&Setup::new(), 1)
    })
}

/// A cluster of three masters.
///
/// # Errors
///
/// [`Missing`] when it cannot be had.
pub fn cluster() -> Result<&'static Shared<Cluster>, Missing> {
    static SHARED: Cell<Cluster> = Cell::new();
    Shared::of(&SHARED, CLUSTER_VARIABLE, Cluster::url, || {
        Cluster::start(&Setup::new(), 3, 0)
    })
}
