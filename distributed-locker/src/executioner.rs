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
    let mut timer = KillTimer::new();
    while rung.recv().is_ok() {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let armed = match &mut timer {
            Ok(timer) => arm(&shared, timer),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Whoever waits for the timer gives up its lock again.
        if let Err(error) = armed {
            let text = format!("the kernel refused the timer of `OnLost::Abort`: {error}");
            shared.events.send(Event::Locker(text));
        }
    }
}

fn arm(shared: &Shared, timer: &mut KillTimer) -> io::Result<()> {
    let held = shared.registry.held();
    let wants: Vec<_> = held
        .iter()
        .filter(|entry| entry.abort_lead.is_some())
        .collect();
    let earliest = wants
        .iter()
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
    timer.arm(earliest)?;
    for entry in wants {
        entry.confirm_armed();
    }
    Ok(())
}
