//! Alarms that ring on the boot clock: for the Reporter's thread, and for the kernel itself.

use super::{Time, boot::BootClock, manual_sleep};
use locker_core::{Instant, ManualClock};
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// An alarm of the Reporter's thread. Unlike a tokio timer it rings on time after a suspend.
#[derive(Debug)]
pub(crate) enum Alarm {
    Boot(AsyncFd<OwnedFd>),
    Manual(Arc<ManualClock>),
}

impl Alarm {
    /// An alarm of the runtime on which this is called.
    pub(crate) fn new(time: &Time) -> io::Result<Self> {
        match time {
            Time::Boot(_) => {
                let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
                let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
                // Newer tokio asks for `unsafe` here, because a type of one's own may lie about its
                // descriptor. This one is the standard library's.
                #[allow(
                    deprecated,
                    reason = "sound for `OwnedFd`; the workspace has no unsafe"
                )]
                let timer = AsyncFd::new(timer)?;
                Ok(Self::Boot(timer))
            }
            Time::Manual(clock) => Ok(Self::Manual(Arc::clone(clock))),
        }
    }

    /// Waits until the clock has reached `deadline`; it may return early.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any point and called again with another deadline.
    pub(crate) async fn ring(&mut self, deadline: Instant) {
        match self {
            Self::Manual(clock) => manual_sleep(clock, deadline).await,
            Self::Boot(_) if deadline == Instant::FAR_FUTURE => std::future::pending().await,
            Self::Boot(timer) => {
                let at = BootClock::on_boot_clock(deadline).max(Duration::from_nanos(1));
                let once = Itimerspec {
                    it_interval: Timespec {
                        tv_sec: 0,
                        tv_nsec: 0,
                    },
                    it_value: Timespec {
                        tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
                        tv_nsec: i64::from(at.subsec_nanos()),
                    },
                };
                let absolute = TimerfdTimerFlags::ABSTIME;
                if timerfd_settime(timer.get_ref(), absolute, &once).is_err() {
                    // Out of kernel resources: look at the clock again soon.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    return;
                }
                if let Ok(mut ready) = timer.readable().await {
                    // Setting a timer clears its expirations, so nothing is read from it.
                    ready.clear_ready();
                }
            }
        }
    }
}

/// A timer of the kernel that ends this process (S12).
///
/// It needs no living thread: it fires when every thread is blocked, and even when the process is
/// stopped. A forked child does not inherit it.
#[derive(Debug)]
pub(crate) struct KillTimer {
    timer: Timer,
    armed: Option<Instant>,
}

impl KillTimer {
    pub(crate) fn new() -> io::Result<Self> {
        let notify = SigevNotify::SigevSignal {
            signal: Signal::SIGKILL,
            si_value: 0,
        };
        let timer = Timer::new(ClockId::CLOCK_BOOTTIME, SigEvent::new(notify))?;
        Ok(Self { timer, armed: None })
    }

    /// Lets the process end at this moment, or not at all.
    pub(crate) fn arm(&mut self, at: Option<Instant>) -> io::Result<()> {
        if at == self.armed {
            return Ok(());
        }
        let (when, flags) = match at {
            Some(at) => {
                let at = BootClock::on_boot_clock(at).max(Duration::from_nanos(1));
                (at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            }
            // Zero disarms.
            None => (Duration::ZERO, TimerSetTimeFlags::empty()),
        };
        self.timer
            .set(Expiration::OneShot(TimeSpec::from_duration(when)), flags)?;
        self.armed = at;
        Ok(())
    }
}
