//! The loop that tells losses in time, and lets the kernel end the process where that was asked for.

use crate::events::Event;
use crate::shared::Shared;
use crate::time::{Alarm, KillTimer};
use locker_core::Instant;
use std::sync::Arc;

/// Watches every deadline, for ever.
pub(super) async fn run(shared: &Arc<Shared>) {
    let Ok(mut alarm) = Alarm::new(&shared.time) else {
        return;
    };
    let mut timer: Option<KillTimer> = None;
    loop {
        let next = shared.registry.judge(|entry| match entry.judge(shared) {
            Ok(next) => next,
            // Announced; what the former owner leaves is the upkeep's business.
            Err(_) => Instant::FAR_FUTURE,
        });
        arm(shared, &mut timer);
        tokio::select! {
            () = alarm.ring(next) => {}
            () = shared.bells.watchdog.notified() => {}
        }
    }
}

/// Sets the kernel's timer to the earliest hard deadline of a lock that wants it (S12). It moves
/// only when a report or an extension was confirmed, or such a lock came or went.
fn arm(shared: &Arc<Shared>, timer: &mut Option<KillTimer>) {
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
    if earliest.is_none() && timer.is_none() {
        return;
    }
    let armed = match timer {
        Some(timer) => timer.arm(earliest),
        None => KillTimer::new().and_then(|mut new| {
            new.arm(earliest)?;
            *timer = Some(new);
            Ok(())
        }),
    };
    match armed {
        Ok(()) => wants.iter().for_each(|entry| entry.confirm_armed()),
        // Whoever waits for the timer gives up its lock again.
        Err(error) => {
            let text = format!("the kernel refused the timer of `OnLost::Abort`: {error}");
            shared.events.send(Event::Locker(text));
        }
    }
}
