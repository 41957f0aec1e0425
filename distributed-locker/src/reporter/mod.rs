//! The Reporter: the one thread that keeps this process alive at the store, and its locks.
//!
//! It has a runtime of its own, which no job can block, and runs five loops:
//!
//! | loop | does | on |
//! | --- | --- | --- |
//! | [`reports`] | births, renewals, retirements | a connection for nothing else |
//! | [`upkeep`] | extends and checks the held locks, in batches | the second connection |
//! | [`departures`] | finishes releases, settles attempts of unknown outcome | the second connection |
//! | [`sweep`] | lets the store forget what is long free or dead | the second connection |
//! | [`watchdog`] | tells losses in time | no connection |
//!
//! It runs no code of the user. `tracing` is switched off on its thread, because a subscriber may
//! block; events go through a bounded queue that drops. Wakers of the user's runtime are all it
//! touches. And if it is stalled all the same, guards end at their deadlines by themselves, jobs
//! are cancelled by timers of their own runtime, and `OnLost::Abort` is the kernel's business.

mod departures;
mod reports;
mod sweep;
mod troubles;
mod upkeep;
mod watchdog;

use crate::events::ReporterEvent;
use crate::link::Link;
use crate::shared::{Ending, Life, Shared};
use crate::time::{Alarm, Time};
use locker_core::Instant;
use locker_core::backend::{Connect, Side};
use locker_core::machine::LossReason;
use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// Starts the Reporter of a locker, with everything that the operating system could refuse it. It ends
/// when the locker is drained and nothing is left.
///
/// # Errors
///
/// What was refused. Nothing is left running.
pub(crate) async fn start(shared: &Arc<Shared>, connect: Arc<dyn Connect>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let (sender, prepared) = oneshot::channel();
    std::thread::Builder::new()
        .name("locker-reporter".to_owned())
        .spawn(move || {
            // Even a panic leaves the others with a plain "has ended".
            let mut end = End {
                shared: Arc::clone(&shared),
                ending: Ending::Crashed,
            };
            let _silence = tracing::dispatcher::set_default(&tracing::Dispatch::none());
            // The runtime is made, and dropped, on its own thread: none may be dropped in another.
            let (runtime, means) = match prepare(&shared) {
                Ok(prepared) => prepared,
                Err(error) => {
                    end.ending = Ending::Gone;
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            let _ = sender.send(Ok(()));
            // Dropped before the runtime, if a loop panics; and the runtime waits for nobody, because the
            // lookup of a name may hang in a thread of it.
            let mut end = end;
            end.ending = runtime.block_on(run(shared, connect, means));
            runtime.shutdown_background();
        })?;
    let lost = |_| io::Error::other("the Reporter's thread has ended at its start");
    prepared.await.map_err(lost)?
}

/// What the loops have of the operating system.
struct Means {
    reports: Alarm,
    upkeep: Alarm,
    sweep: Alarm,
    watchdog: Alarm,
    /// Of the first incarnation.
    random: reports::Random,
}

fn prepare(shared: &Shared) -> io::Result<(Runtime, Means)> {
    let runtime = runtime(shared)?;
    let inside = runtime.enter();
    let alarm = || Alarm::new(&shared.time);
    let means = Means {
        reports: alarm()?,
        upkeep: alarm()?,
        sweep: alarm()?,
        watchdog: alarm()?,
        random: reports::random()?,
    };
    drop(inside);
    Ok((runtime, means))
}

async fn run(shared: Arc<Shared>, connect: Arc<dyn Connect>, means: Means) -> Ending {
    let link = |side| {
        Link::new(
            Arc::clone(&connect),
            side,
            shared.time.clone(),
            shared.timing.request_timeout,
        )
    };
    let reports = link(Side::Reports);
    let upkeep = Arc::new(link(Side::Upkeep));
    let desk = Arc::new(departures::Desk::new(&shared, &upkeep));
    tokio::select! {
        ending = reports::run(&shared, &reports, &upkeep, means.reports, means.random) => ending,
        never = upkeep::run(&desk, means.upkeep) => match never {},
        never = departures::run(&desk) => match never {},
        never = sweep::run(&shared, &upkeep, means.sweep) => match never {},
        never = watchdog::run(&shared, means.watchdog) => match never {},
    }
}

fn runtime(shared: &Shared) -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all();
    if let Time::Manual(clock) = &shared.time {
        // A test that moves the clock wants to know when this thread has nothing left to do.
        let parked = Arc::clone(clock);
        let unparked = Arc::clone(clock);
        builder.on_thread_park(move || parked.set_busy(false));
        builder.on_thread_unpark(move || unparked.set_busy(true));
        clock.set_busy(true);
    }
    builder.build()
}

/// Says at the end of the thread, however it comes, that there is no Reporter any more.
struct End {
    shared: Arc<Shared>,
    ending: Ending,
}

impl Drop for End {
    fn drop(&mut self) {
        let shared = &self.shared;
        // Nobody else tells what is lost with it, and the events end with it. A record lasts until its own
        // deadline, so `OnLost::Abort` is in no hurry.
        for entry in shared.registry.held() {
            let end = Instant::FAR_FUTURE;
            let loss = entry.tenure.condemn(LossReason::LivenessLapsed, end);
            entry.announce(shared, &loss);
        }
        if let Life::Alive(incarnation) = &*shared.life.borrow() {
            incarnation.deadline.lose();
        }
        if self.ending == Ending::Crashed {
            shared.events.report(ReporterEvent::Crashed);
        }
        shared.life.send_replace(Life::Ended(self.ending));
        shared.registry.close();
        if let Time::Manual(clock) = &shared.time {
            clock.set_busy(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, EventSender};
    use crate::incarnation::Incarnation;
    use crate::registry::Attempt;
    use crate::{BootClock, Host, Locker, NotRunning, TerminateError, Timing, memory};
    use locker_core::deadline::Deadline;
    use locker_core::{Key, OwnerHash, ProcessHash};
    use std::time::Duration;

    /// The losses come first: the events end with the locker.
    #[tokio::test]
    async fn what_is_lost_by_a_crash_is_told_at_once() {
        let locker = Locker::builder(memory()).start().await.unwrap();
        let guard = locker.try_acquire("k").await.unwrap().unwrap();
        let mut events = locker.events();
        let job = guard.heartbeater();
        let waits = tokio::spawn(async move { job.lost().await.reason });
        tokio::task::yield_now().await;
        let shared = Arc::clone(locker.shared());
        let ending = Ending::Crashed;
        drop(End { shared, ending });
        let lost = events.next().await;
        assert!(matches!(lost, Some(Event::LostLock { .. })), "{lost:?}");
        let crashed = events.next().await;
        let is_crash = matches!(crashed, Some(Event::Reporter(ReporterEvent::Crashed)));
        assert!(is_crash, "{crashed:?}");
        let soon = Duration::from_secs(1);
        let woken = tokio::time::timeout(soon, waits).await;
        assert_eq!(woken.unwrap().unwrap(), LossReason::LivenessLapsed);
    }

    /// A panic of the Reporter is no end in good order.
    #[tokio::test]
    async fn a_reporter_that_ended_by_a_fault_says_so() {
        let (store, time) = (memory(), Time::Boot(BootClock::new()));
        let limits = store.connect(Side::Caller).await.unwrap().limits();
        let timing = Timing::default();
        let caller = Link::new(store, Side::Caller, time.clone(), timing.request_timeout);
        let host = Host::new("h").unwrap();
        let shared = Shared::new(time, timing, limits, host, caller, EventSender::new());
        let locker = Locker::new(Arc::new(shared));
        let mut events = locker.events();
        let shared = Arc::clone(locker.shared());
        let ending = Ending::Crashed;
        let crash = std::thread::spawn(move || {
            let _end = End { shared, ending };
            panic!("a bug, as it is to be seen");
        });
        assert!(crash.join().is_err());
        let limit = Duration::from_secs(5);
        let event = tokio::time::timeout(limit, events.next()).await.unwrap();
        let crashed = matches!(event, Some(Event::Reporter(ReporterEvent::Crashed)));
        assert!(crashed, "{event:?}");
        let running = locker.ensure_running().await;
        assert!(matches!(running, Err(NotRunning::Ended)), "{running:?}");
        assert!(events.next().await.is_none(), "they end with the locker");
        // What is still there is lost: nobody waits for it.
        let shared = locker.shared();
        let process = ProcessHash::new(&shared.host, 1, 1);
        let deadline = Arc::new(Deadline::new(Instant::ZERO));
        let incarnation = Arc::new(Incarnation::new(process.clone(), deadline));
        let owner = OwnerHash::new(&Key::new("k").unwrap(), &process, 1, None);
        let _attempt = Attempt::begin(shared, &incarnation, owner);
        let ended = locker.terminate(limit).await;
        assert!(matches!(ended, Err(TerminateError::Abandoned)), "{ended:?}");
    }
}
