//! etcd servers: one [`Server`], which is a cluster of one member, or a [`Cluster`] of several. Each
//! is a value; dropping it ends its servers and removes their files.
//!
//! ```no_run
//! use locker_testkit::servers::etcd::{Server, Setup};
//!
//! let server = Server::start(&Setup::new().flag("quota-backend-bytes", "33554432"))?;
//! println!("{}", server.url()); // etcd://127.0.0.1:18231
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Tests that need nothing special share one server of each kind: [`shared`]. What a test does to a
//! server past the locker it does with a client of its own.

mod cluster;
mod member;
mod setup;
pub mod shared;

pub use cluster::{Cluster, Server};
pub use member::Member;
pub use setup::Setup;
