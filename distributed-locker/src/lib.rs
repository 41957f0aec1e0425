//! Runs a job at most once at a time per key, across a cluster.
//!
//! A slow worker keeps its lock as long as it gives a sign of life every few minutes; a dead one loses it
//! within seconds, because a dedicated thread reports that the process is alive. An owner that may have lost
//! its lock stops *before* anyone else can acquire it, and every grant carries a fencing token.
//!
//! ```
//! use distributed_locker::{AcquireOptions, Locker, Run, memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Unit tests use the memory store; programs connect to a URL.
//! let locker = Locker::builder(memory()).start().await?;
//! let run = locker
//!     .acquire_and_run("import/customers", AcquireOptions::new(), async |job| {
//!         for _page in 0..10 {
//!             job.heartbeat()?;
//!         }
//!         Ok::<_, distributed_locker::Interrupted>(())
//!     })
//!     .await?;
//! assert!(matches!(run, Run::Completed { value: Ok(()), .. }));
//! locker.terminate(std::time::Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! **A job must call [`Heartbeater::heartbeat`] at least once per lock TTL (5 min), or it loses its lock**;
//! [`HeartbeatPolicy::Automatic`] lifts that. `heartbeat()` is an error when the lock is lost, and when the
//! locker drains: the lock is held then, and the job shall come to an end ([`Interrupted`]).
//!
//! | to | call |
//! | --- | --- |
//! | run a job now, or learn who is already running it | [`Locker::acquire_and_run`] |
//! | wait for the lock, up to a timeout, and run a job | [`Locker::mutex`] |
//! | hold a lock without a job | [`Locker::acquire`], [`Locker::try_acquire`] |
//! | be the one active instance, or wait to become it | [`Locker::standby`] |
//! | end cleanly | [`Locker::terminate`], [`Locker::shutdown_on_signals`] |
//! | see what happens in the background | [`Locker::events`] |
//! | look at locks, or take one away as an operator | [`Locker::read_lock_data`], [`Locker::force_release`] |
//! | name a store | [`connect`] |
//! | test a job of one's own, in virtual time | [`Memory`], [`LockerBuilder::clock`], [`pass`]; [`Heartbeater::noop`] |
//!
//! Errors and documentation cite the guarantees (S1 to S12, L1 to L8) and their assumptions (A1 to A6) by
//! number; the [README](https://github.com/distributed-locker/locker#guarantees) lists them, and
//! [ARCHITECTURE.md](https://github.com/distributed-locker/locker/blob/main/ARCHITECTURE.md) argues them.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "distributed-locker runs on Linux only: its deadlines need CLOCK_BOOTTIME, and its hard stop \
     needs timer_create on that clock"
);

mod acquire;
mod builder;
mod error;
mod events;
mod executioner;
mod forked;
mod guard;
mod heartbeat;
mod incarnation;
mod inspect;
mod into_key;
mod link;
mod locker;
mod options;
mod queue;
mod registry;
mod releases;
mod reporter;
mod run;
mod shared;
mod shutdown;
mod spans;
mod standby;
mod store_clock;
mod sync;
mod time;
mod url;
mod virtual_time;

pub use acquire::Acquired;
pub use builder::LockerBuilder;
pub use error::{
    AcquireError, ExtendError, Interrupted, MutexError, NotRunning, ReadError, ReleaseError,
    RunError, StartError, TerminateError,
};
pub use events::{EndReason, Event, Events, ReporterEvent, Trouble};
pub use guard::LockGuard;
pub use heartbeat::Heartbeater;
pub use inspect::OwnerHashStatus;
pub use into_key::IntoKey;
pub use locker::Locker;
pub use options::{AcquireOptions, HeartbeatPolicy, OnLost, Wait};
pub use releases::Releases;
pub use run::{Completed, Release, Run};
pub use shutdown::Shutdown;
pub use standby::Standby;
pub use time::BootClock;
pub use url::{ConnectError, connect, connect_in, schemes};
pub use virtual_time::pass;

pub use locker_core::backend::{Force, Released};
pub use locker_core::machine::{Loss, LossReason};
pub use locker_core::memory::Memory;
pub use locker_core::{
    Backend, BackendError, Clock, Connect, Effect, ErrorKind, Host, Instant, InvalidIdentity,
    InvalidTiming, Key, LockData, ManualClock, OwnerHash, ProcessData, ProcessHash, Timestamp,
    Timing, Token, Trace,
};

use std::sync::Arc;

/// An empty store in memory, for unit tests and examples. Lockers that shall meet in it share the
/// value.
///
/// ```
/// # use distributed_locker::{Locker, memory};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = memory();
/// let a = Locker::builder(store.clone()).start().await?;
/// let b = Locker::builder(store).start().await?;
/// let guard = a.try_acquire("nightly").await?.expect("it is free");
/// assert!(b.try_acquire("nightly").await?.is_none());
/// # Ok(())
/// # }
/// ```
///
pub fn memory() -> Arc<dyn Connect> {
    Arc::new(Memory::new(Arc::new(BootClock::new())))
}

/// The README's example runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
