//! As much of the locker as the registry knows of.

use crate::registry::Registry;
use crate::sync::Arc;
use locker_core::machine::Loss;
use locker_core::{Instant, OwnerHash};
use std::io;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) bells: Bells,
    pub(crate) events: Events,
    pub(crate) executioner: Executioner,
    pub(crate) time: Time,
}

impl Shared {
    #[expect(clippy::unused_self, reason = "as the locker's own")]
    pub(crate) fn runs_out_by(&self, now: Instant) -> Instant {
        now
    }
}

#[derive(Debug, Default)]
pub(crate) struct Bells {
    pub(crate) watchdog: Notify,
    pub(crate) departures: Notify,
}

/// A clock that stands still.
#[derive(Debug, Default)]
pub(crate) struct Time;

impl Time {
    #[expect(clippy::unused_self, reason = "as the locker's own")]
    pub(crate) fn now(&self) -> Instant {
        Instant::ZERO
    }

    pub(crate) async fn sleep_until(&self, _: Instant) {
        std::future::pending::<()>().await;
    }
}

pub(crate) enum Event {
    LostLock { owner: OwnerHash, loss: Loss },
}

#[derive(Debug, Default)]
pub(crate) struct Events;

impl Events {
    #[expect(clippy::unused_self, reason = "as the locker's own")]
    pub(crate) fn send(&self, event: Event) {
        let Event::LostLock { owner, loss } = event;
        panic!("nothing is lost here: {owner}, {loss}");
    }
}

/// Nobody asks for it here.
#[derive(Debug, Default)]
pub(crate) struct Executioner;

impl Executioner {
    #[expect(clippy::unused_self, reason = "as the locker's own")]
    pub(crate) fn start(&self, _: &Arc<Shared>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[expect(clippy::unused_self, reason = "as the locker's own")]
    pub(crate) fn ring(&self) {}
}
