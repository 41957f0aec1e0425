//! The clock of the driver: the boot clock, or a clock that a test advances.
//!
//! `std::time::Instant` and every tokio timer stop while the machine is suspended, so neither is
//! used for a deadline. A tokio timer only ever wakes somebody who then looks at this clock.

mod alarm;
mod boot;
mod wall;

pub(crate) use alarm::{Alarm, KillTimer};
pub use boot::BootClock;
pub(crate) use wall::WallClock;

use locker_core::time::ManualSleep;
use locker_core::{Clock, Instant, ManualClock};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

/// Which clock a locker lives by.
#[derive(Debug, Clone)]
pub(crate) enum Time {
    /// The machine's.
    Boot(BootClock),
    /// A test's.
    Manual(Arc<ManualClock>),
}

impl Time {
    pub(crate) fn now(&self) -> Instant {
        match self {
            Self::Boot(clock) => clock.now(),
            Self::Manual(clock) => clock.now(),
        }
    }

    /// Waits on the caller's runtime. After a suspend it may be late; whoever waits looks at the
    /// clock, and the Reporter has alarms that are not late.
    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        match self {
            Self::Boot(clock) => loop {
                let left = deadline.since(clock.now());
                if left.is_zero() {
                    return;
                }
                // Timers refuse to wait for centuries; nobody notices a wake once a day.
                tokio::time::sleep(left.min(Duration::from_secs(86_400))).await;
            },
            Self::Manual(clock) => manual_sleep(clock, deadline).await,
        }
    }

    /// The output of the future, or `None` if it takes longer.
    pub(crate) fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Option<F::Output>> {
        self.timeout_at(self.now() + limit, future)
    }

    /// The output of the future, or `None` if there is none by the deadline.
    pub(crate) async fn timeout_at<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.sleep_until(deadline) => None,
        }
    }
}

/// A wait on a manual clock, that leaves the clock when it is dropped.
pub(crate) async fn manual_sleep(clock: &Arc<ManualClock>, deadline: Instant) {
    struct Leave<'a>(&'a ManualClock, ManualSleep);
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            self.0.forget_sleep(&mut self.1);
        }
    }
    let mut sleep = Leave(clock, ManualSleep::default());
    poll_fn(|context| clock.poll_sleep(&mut sleep.1, deadline, context)).await;
}
