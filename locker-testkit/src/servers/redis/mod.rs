//! Redis servers: one [`Server`], a master with replicas ([`Replicated`]), the same under sentinels
//! ([`Sentinel`]), and a [`Cluster`]. Each is a value; dropping it ends its servers and removes
//! their files.
//!
//! ```no_run
//! use locker_testkit::servers::redis::{Server, Setup};
//!
//! let server = Server::start(&Setup::new().line("maxmemory 10mb"))?;
//! println!("{}", server.url()); // redis://127.0.0.1:18231
//! server.node().command(&["SET", "a", "b"])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Tests that need nothing special share one server of each kind: [`shared`].

mod cluster;
mod node;
mod replicated;
mod sentinel;
mod setup;
pub mod shared;

pub use cluster::Cluster;
pub use node::Node;
pub use replicated::{Replicated, Server};
pub use sentinel::{MASTER_NAME, Sentinel};
pub use setup::Setup;
