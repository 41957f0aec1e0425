//! The embedded store of Locker: many processes on one machine, one SQLite file.
//!
//! [`Sqlite`] makes the connections; its documentation says what the store promises. The `README`
//! of the crate is for operators: file layout, permissions, backups, tuning.
//!
//! | module | idea |
//! | --- | --- |
//! | `config` | what the three connections of one locker share |
//! | `place` | the path: what may lie there, and whether it is still the same file |
//! | `boot` | whose clock it is, and what it says now |
//! | `liveness` | the bytes by which the kernel tells who is alive |
//! | `open` | opening and creating the file; refusing what is not ours |
//! | `reboot` | whose clock the file's times are; a reboot frees every lock |
//! | `actor` | one task owns one connection; callers come and go |
//! | `session` | one atomic step on the connection |
//! | `row` | total decoding of what is found |
//! | `locks`, `processes`, `listing`, `enrolment`, `sweep` | the steps themselves |
//! | `hints`, `mailbox` | hints inside a process, and between processes |
//! | `backend` | the contract, method by method |
//! | `error` | the one mapping of SQLite's errors |

mod actor;
mod backend;
mod boot;
mod config;
mod enrolment;
mod error;
mod hints;
mod listing;
mod liveness;
mod locks;
mod mailbox;
mod open;
mod place;
mod processes;
mod reboot;
mod row;
mod session;
mod sweep;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "locker-sqlite needs Linux: its crash detection rests on open-file-description locks, and its \
     time on CLOCK_BOOTTIME"
);

pub use config::Sqlite;
pub use liveness::Liveness;

/// The examples of the README compile as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
