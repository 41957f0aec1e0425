//! Servers of the networked stores, for tests: started from the binaries that the system's packages
//! bring, in a temporary folder, on free ports, and gone with the test.
//!
//! | module | idea |
//! | --- | --- |
//! | [`program`] | where the binary is, or what to install |
//! | [`port`] | free ports that no other test is given |
//! | [`supervisor`] | a process that ends its server when the test ends, however that ends |
//! | [`certificates`] | an authority and its certificates, for one test |
//! | [`clock`] | a server's clock that a test can step |
//! | [`etcd`] | etcd alone, and a cluster |
//! | [`postgres`] | Postgres, as an ordinary user |
//! | [`redis`] | Redis alone, with replicas, under sentinels, and as a cluster |
//! | [`shared`] | one of each for all tests of a process |
//! | `wait` | asking a server until it is ready |
//!
//! Nothing here is skipped: what cannot be had is [`Missing`](crate::Missing), with what to install.

#![allow(
    clippy::missing_errors_doc,
    reason = "a server of a test that cannot do what it is told says why, as a text"
)]

pub mod certificates;
pub mod clock;
pub mod etcd;
pub mod port;
pub mod postgres;
pub mod program;
pub mod redis;
pub mod shared;
pub mod supervisor;
mod wait;
