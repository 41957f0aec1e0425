//! Setting up a locker.

use crate::error::{NotRunning, StartError};
use crate::events::{EventSender, write_to_tracing};
use crate::link::Link;
use crate::locker::Locker;
use crate::reporter;
use crate::shared::Shared;
use crate::time::{BootClock, Time};
use locker_core::backend::{Connect, Side};
use locker_core::{Host, ManualClock, Timing};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Sets up a locker. See [`Locker::builder`], which has an example.
pub struct LockerBuilder {
    connect: Arc<dyn Connect>,
    timing: Timing,
    host: Option<Host>,
    time: Time,
    lose_on_pause: bool,
}

impl fmt::Debug for LockerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockerBuilder")
            .field("timing", &self.timing)
            .field("host", &self.host)
            .field("lose_on_pause", &self.lose_on_pause)
            .finish_non_exhaustive()
    }
}

impl LockerBuilder {
    pub(crate) fn new(connect: Arc<dyn Connect>) -> Self {
        let time = Time::Boot(BootClock::new());
        Self {
            connect,
            timing: Timing::default(),
            host: None,
            time,
            lose_on_pause: false,
        }
    }

    /// Other durations than the default ones. Each process of a store may choose for itself: its records say
    /// how long they live, and the others wait as long as it chose. [`Timing`] says what must fit together.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Another name for this machine than the one the operating system gives it.
    #[must_use]
    pub fn host(mut self, host: Host) -> Self {
        self.host = Some(host);
        self
    }

    /// Loses all locks when the wall clock has moved against the boot clock by more than the hard
    /// margin: the machine may have been paused without its boot clock noticing (A4). A wall clock
    /// that is stepped loses them as well, so this is off by default.
    #[must_use]
    pub fn lose_on_pause(mut self, lose: bool) -> Self {
        self.lose_on_pause = lose;
        self
    }

    /// A clock that a test advances, the same one that its memory store lives by.
    #[must_use]
    pub fn clock(mut self, clock: Arc<ManualClock>) -> Self {
        self.time = Time::Manual(clock);
        self
    }

    /// Opens the store, starts the Reporter, and waits until the store has confirmed that this
    /// process lives. Each of the two may take up to [`Timing::start_timeout`].
    ///
    /// # Errors
    ///
    /// [`StartError`]. Nothing is left running.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the Reporter ends by itself.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn start(self) -> Result<Locker, StartError> {
        self.timing.validate()?;
        let host = match self.host {
            Some(host) => host,
            None => host_name()?,
        };
        let caller = Link::new(
            Arc::clone(&self.connect),
            Side::Caller,
            self.time.clone(),
            self.timing.request_timeout,
        );
        let opening = caller.open(self.timing.start_timeout).await;
        let backend = opening.map_err(StartError::Store)?;
        let limits = backend.limits();
        let timing = self.timing.for_store(&limits)?;
        drop(backend);
        let events = EventSender::new();
        let mut shared = Shared::new(self.time, timing, limits, host, caller, events);
        shared.lose_on_pause = self.lose_on_pause;
        let locker = Locker::new(Arc::new(shared));
        let to_tracing = locker.events();
        reporter::start(locker.shared(), self.connect)
            .await
            .map_err(StartError::System)?;
        tokio::spawn(write_to_tracing(to_tracing));
        match locker.ensure_running().await {
            Ok(_) => Ok(locker),
            Err(NotRunning::Unreported(Some(error))) if !error.kind().is_transient() => Err(
                StartError::Store(Arc::try_unwrap(error).unwrap_or_else(|error| {
                    locker_core::BackendError::new(error.kind(), error.effect(), error.to_string())
                })),
            ),
            Err(error) => Err(StartError::NotRunning(error)),
        }
    }
}

fn host_name() -> Result<Host, StartError> {
    let name = nix::unistd::gethostname().map_err(|error| StartError::System(error.into()))?;
    let name = name.into_string().map_err(|_| {
        StartError::System(io::Error::new(
            io::ErrorKind::InvalidData,
            "the machine's host name is not UTF-8; set one with `LockerBuilder::host`",
        ))
    })?;
    Host::new(name).map_err(StartError::Host)
}
