//! What the faults are done to: one file for each deployment.
//!
//! A new deployment is a file with a [`Deployment`] and a line in [`ALL`].

#[cfg(feature = "etcd")]
pub mod etcd;
mod networked;
pub mod postgres;
pub mod redis;
pub mod sqlite;

use super::cases::Case;
use super::fault::Fault;
use super::network::Network;
use super::times::Times;
use locker_core::Connect;
use std::any::Any;
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A way in which a store is deployed.
pub trait Deployment: fmt::Debug + Send + Sync {
    /// Its name on the command line and in reports.
    fn name(&self) -> &'static str;

    /// The feature of this crate that it comes with.
    fn feature(&self) -> &'static str {
        "harness"
    }

    /// The scaled times that it can keep.
    fn times(&self) -> Times;

    /// What is done about this fault. There is no default: an empty cell does not compile.
    fn cell(&self, fault: Fault) -> Cell;

    /// Whether this case of a fault belongs to the short table, which guards every change. The whole
    /// one is run when it is asked for.
    fn is_short(&self, fault: Fault, variant: &str) -> bool;

    /// How soon after the death of its process a lock has another owner (L2).
    fn killed_is_taken_over(&self) -> Duration;

    /// Gets a fresh store ready, in this folder if it has files. `program` is `locker-faults`.
    fn open(&self, folder: &Path, program: &Path) -> Result<Box<dyn Site>, Box<dyn Error>>;

    /// Connects to the store at this URL, in any process.
    fn connect(&self, url: &str, times: Times) -> Result<Arc<dyn Connect>, Box<dyn Error>>;
}

/// A store that is there, for one case.
pub trait Site: fmt::Debug + Send + Any {
    /// Where the harness finds it, whatever happens to the network of a worker.
    fn url(&self) -> String;

    /// Where this worker finds it: behind its own network, if there is one.
    fn url_for(&self, worker: usize) -> String;

    /// The network between this worker and the store, if there is one.
    fn network(&self, worker: usize) -> Option<&Network>;

    /// The processes of its servers, now.
    fn processes(&self) -> Vec<u32>;

    /// What its servers have logged, each under its name.
    fn logs(&self) -> Vec<(String, String)>;

    /// Restarts its servers: stops them in a moment, as a machine does that loses its power, leaves
    /// them down for so long, and starts them again. Their data is kept, or is gone.
    fn restart(&mut self, down: Duration, data: Data) -> Result<(), Box<dyn Error>>;

    /// Makes it stand still, for everybody: a stopped server, a writer that does not let go.
    fn stand_still(&mut self) -> Result<(), Box<dyn Error>>;

    /// Lets it go on.
    fn go_on(&mut self);

    /// Empties it under its owners, by means that know no lock.
    fn empty(&mut self) -> Result<(), Box<dyn Error>>;
}

/// What a server that was restarted still knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Everything that it had confirmed.
    Kept,
    /// Nothing.
    Gone,
}

/// What is done about one fault on one deployment.
#[derive(Debug, Clone, Copy)]
pub enum Cell {
    /// These cases.
    Run(&'static [Case]),
    /// It is shown by another test, which is named.
    ShownBy(&'static str),
    /// It cannot happen there, for a reason that a user would accept.
    DoesNotApply(&'static str),
}

/// Of a fault that is done in several ways, whether this is the one that shows most: the short table
/// of a store that has its whole one elsewhere has each fault once. Only inside a worker can one
/// choose whose reply is lost; a cut on the network is one that the store feels as well.
fn shows_most(fault: Fault, variant: &str) -> bool {
    match fault.0 {
        7 | 8 | 29 => variant == "by network",
        9 => variant != "by network",
        11 => variant == "for 3 T",
        // One of the two for which the owners HOLD, one for which they STOP.
        13 => variant == "0.2 T",
        14 => variant == "3 T",
        15 => variant == "emptied",
        27 => variant == "one killed",
        31 => variant == "killed",
        _ => true,
    }
}

/// Every deployment.
pub const ALL: &[&dyn Deployment] = &[
    &sqlite::SqliteFile,
    &redis::Redis::Alone,
    &redis::Redis::Sentinel,
    &redis::Redis::Cluster,
    &postgres::Pg::Alone,
    &postgres::Pg::Standby,
    &postgres::Pg::Pooled,
    #[cfg(feature = "etcd")]
    &etcd::Etcd::Alone,
    #[cfg(feature = "etcd")]
    &etcd::Etcd::Cluster,
];

/// The deployment of this name.
pub fn find(name: &str) -> Option<&'static dyn Deployment> {
    ALL.iter().copied().find(|one| one.name() == name)
}

/// Connects a worker to the store of a deployment.
pub fn connect(
    deployment: &str,
    url: &str,
    times: Times,
) -> Result<Arc<dyn Connect>, Box<dyn Error>> {
    let found = find(deployment).ok_or_else(|| format!("there is no deployment {deployment}"))?;
    found.connect(url, times)
}
