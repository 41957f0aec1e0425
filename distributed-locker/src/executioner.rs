//! The thread that lets the kernel end the process, for locks with `OnLost::Abort` (S12).
//!
//! It owns the kernel's timer and does nothing else: no request, no code of a store's client. So it
//! works while the Reporter hangs inside such code, in both directions: the timer fires on time,
//! because the kernel needs nobody; and it is disarmed when the last such lock is given back,
//! because this thread is not the Reporter. It is started with the first lock that wants it, and
//! ends with the locker.
//!
//! The timer stands at the earliest hard deadline of the locks that want it. It moves when a report
//! was confirmed, when such a lock comes, is lost or goes, and then only.

use crate::events::Event;
use crate::shared::Shared;
use crate::time::KillTimer;
use locker_core::Instant;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock, Weak};

/// How the thread is told to look.
#[derive(Debug, Default)]
pub(crate) struct Executioner {
    bell: OnceLock<SyncSender<()>>,
}

impl Executioner {
    /// Lets the thread look at the locks. Nothing happens if there is none.
    pub(crate) fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            // A full bell has not been heard yet: one look serves both.
            let _ = bell.try_send(());
        }
    }

    /// Starts the thread if there is none.
    pub(crate) fn start(&self, shared: &Arc<Shared>) -> io::Result<()> {
        if self.bell.get().is_some() {
            return Ok(());
        }
        let (bell, rung) = sync_channel(1);
        let shared = Arc::downgrade(shared);
        let thread = std::thread::Builder::new().name("locker-timer".to_owned());
        // Of two that start at the same time one keeps its bell; the other thread ends at once.
        thread.spawn(move || watch(&shared, &rung))?;
        let _ = self.bell.set(bell);
        Ok(())
    }
}

/// Sets the timer whenever the bell rings, until the locker is gone.
fn watch(shared: &Weak<Shared>, rung: &Receiver<()>) {
    let mut timer = None;
    let mut told = None;
    while rung.recv().is_ok() {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let Err(error) = arm(&shared, &mut timer) else {
            continue;
        };
        let now = shared.time.now();
        let every = shared.timing.recheck_every;
        if told.is_none_or(|told: Instant| now.since(told) >= every) {
            told = Some(now);
            shared.events.send(Event::AbortRefused(Arc::new(error)));
        }
    }
}

/// Arms the timer, and tells those who wait for it.
fn arm(shared: &Shared, timer: &mut Option<KillTimer>) -> io::Result<()> {
    let held = shared.registry.held();
    let wants = || held.iter().filter(|entry| entry.abort_lead.is_some());
    let earliest = wants()
        .filter_map(|entry| {
            let lead = entry.abort_lead?;
            // A lock that is lost already, under a guard that is still there: its time to stop is
            // what the loss left it.
            let hard = match entry.tenure.loss() {
                Some(loss) => loss.safe_until,
                // A beat that is missing is no matter of the kernel before it is judged: the job
                // may have beaten since.
                None => entry.tenure.hard_deadline().unwrap_or(Instant::ZERO),
            };
            // A lock that is being given back has no deadline any more, and ends nobody. This is
            // asked last, because it departs before its deadlines are closed.
            (!entry.has_departed()).then(|| hard - lead)
        })
        .min();
    let armed = match timer {
        Some(timer) => timer.arm(earliest),
        // What the kernel refused the last time it may have by now.
        None => KillTimer::new().and_then(|made| timer.insert(made).arm(earliest)),
    };
    for entry in wants() {
        entry.tell_armed(match &armed {
            Ok(()) => Ok(()),
            Err(error) => Err(copy(error)),
        });
    }
    armed
}

/// The same error, for one more who waits.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
