//! The etcd store of Locker: a quorum, one monotonic revision, and leases on the server's own
//! monotonic clock.
//!
//! [`Etcd`] makes the connections. The `README` of the crate is for operators: the layout of the
//! keys, the rights a user needs, what is guaranteed, and from which version of etcd on.
//!
//! | module | idea |
//! | --- | --- |
//! | `config` | what the three connections of one locker share |
//! | `url` | the address, and its secrets |
//! | `connection`, `socket` | one connection to one member, closed for certain |
//! | `shared` | what claims compare, and a revision that went back |
//! | `session` | one round trip: one transaction, of one member or of many |
//! | `gather` | what several tasks ask for at the same time, as one transaction |
//! | `names`, `record` | keys and leases; values, and their total decoding |
//! | `locks`, `processes`, `base`, `listing` | the transactions themselves |
//! | `subscription`, `line`, `enrolment` | the watch stream, and the order of the waiters |
//! | `backend` | the contract, method by method |
//! | `error` | the one mapping of etcd's errors |

mod backend;
mod base;
mod config;
mod connection;
mod enrolment;
mod error;
mod gather;
mod line;
mod listing;
mod locks;
mod names;
mod processes;
mod record;
mod session;
mod shared;
mod socket;
mod subscription;
mod url;

pub use config::Etcd;

/// The examples of the README compile as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
