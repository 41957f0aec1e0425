//! Runs a job with a unique key at most once at a time in a whole cluster.
//!
//! The lock of a job lives for minutes, so a busy or blocked worker keeps it. Yet the locks of a
//! dead process are free within seconds, because every process reports from a thread of its own
//! that it lives. An owner that may have lost its lock stops *before* anybody else can take it over,
//! and a fencing token protects what it wrote to.
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
//! The promises behind this (S1 to S12, L1 to L8) and their assumptions (A1 to A6) are listed in
//! the project's README; how they are kept is in ARCHITECTURE.md.

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
