//! The Postgres store of Locker: rows decide, LISTEN wakes.
//!
//! [`Postgres`] makes the connections; its documentation says what they are. The `README` of the
//! crate is for operators: tables, rights, tuning, standbys, poolers.
//!
//! | module | idea |
//! | --- | --- |
//! | `config`, `url` | where the server is, and in which schema |
//! | `migrate`, `migrations/*/*.sql` | the tables, and the functions that are the operations |
//! | `statement`, `arguments` | the calls of those functions, and what is bound to them |
//! | `session` | one connection, examined; one request on it at a time |
//! | `pooler` | whether a connection has a session of its own |
//! | `lanes`, `drive` | the connections of one side, and the queue before them; a request in its caller's hands |
//! | `gather` | sends in one statement what is asked for meanwhile |
//! | `row` | total decoding of what is answered |
//! | `hints`, `subscription` | hints: their streams, and the connection on which they come |
//! | `backend` | the contract, method by method |
//! | `crash` | how the end of a process is seen |
//! | `confirm` | the lock pinned inside its owner's transaction |
//! | `error` | the one mapping of Postgres's errors |

mod arguments;
mod backend;
mod config;
mod confirm;
mod crash;
mod drive;
mod error;
mod gather;
mod hints;
mod lanes;
mod migrate;
mod pooler;
mod row;
mod session;
mod statement;
mod subscription;
mod url;

pub use config::Postgres;
pub use confirm::ConfirmError;
pub use crash::CrashDetection;
pub use pooler::Between;

/// The examples of the README compile as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
