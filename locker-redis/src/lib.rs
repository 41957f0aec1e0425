//! The Redis store of Locker: a server alone, a server behind Sentinel, or a Cluster.
//!
//! [`Redis`] makes the connections; its documentation says what the store promises. The `README`
//! of the crate is for operators: the layout of keys, rights, TLS, and what each deployment
//! guarantees and does not.
//!
//! | module | idea |
//! | --- | --- |
//! | `config` | what the connections of one locker share |
//! | `url` | the URL: where the store is, and who we are there |
//! | `connection` | a server alone, behind sentinels, or a cluster: one way to send a command |
//! | `server` | what the server says about itself, and whether we can work with it |
//! | `names` | the names of keys and channels |
//! | `session` | one connection, and the way that every request takes |
//! | `gather` | sends together what is asked for at the same time |
//! | `cluster` | the same on a cluster: each primary gets what concerns its slots |
//! | `script` | the two scripts, and how they are sent |
//! | `reply` | total decoding of what comes back |
//! | `locks`, `processes`, `listing` | the operations, each a member of a script or a script |
//! | `grants` | which keys a process holds, so that its end wakes their waiters |
//! | `dead` | processes that are known to be dead, which is final |
//! | `hints`, `subscription` | the streams of hints, and the subscription that feeds them |
//! | `backend` | the contract, method by method |
//! | `error` | the one mapping of the client's errors |

mod backend;
mod cluster;
mod config;
mod connection;
mod dead;
mod error;
mod gather;
mod grants;
mod hints;
mod listing;
mod locks;
mod names;
mod processes;
mod reply;
mod script;
mod server;
mod session;
mod subscription;
mod url;

pub use config::Redis;

/// The examples of the README run as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
