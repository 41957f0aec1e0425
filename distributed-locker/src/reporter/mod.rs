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
mod upkeep;
mod watchdog;

use crate::link::Link;
use crate::shared::{Ending, Life, Shared};
use crate::time::Time;
use locker_core::backend::{Connect, Side};
use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// Starts the Reporter of a locker. It ends when the locker is drained and nothing is left.
pub(crate) fn start(shared: &Arc<Shared>, connect: Arc<dyn Connect>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let runtime = runtime(&shared)?;
    std::thread::Builder::new()
        .name("locker-reporter".to_owned())
        .spawn(move || {
            // Even a panic leaves the others with a plain "has ended".
            let mut end = End {
                shared: Arc::clone(&shared),
                ending: Ending::Crashed,
            };
            let _silence = tracing::dispatcher::set_default(&tracing::Dispatch::none());
            end.ending = runtime.block_on(run(shared, connect));
            drop(runtime);
        })?;
    Ok(())
}

async fn run(shared: Arc<Shared>, connect: Arc<dyn Connect>) -> Ending {
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
    let turns = Arc::new(departures::Turns::new());
    tokio::select! {
        ending = reports::run(&shared, &reports, &upkeep) => ending,
        () = upkeep::run(&shared, &upkeep, &turns) => Ending::Crashed,
        () = departures::run(&shared, &upkeep, &turns) => Ending::Crashed,
        () = sweep::run(&shared, &upkeep) => Ending::Crashed,
        () = watchdog::run(&shared) => Ending::Crashed,
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
        if let Life::Alive(incarnation) = &*shared.life.borrow() {
            incarnation.deadline.lose();
        }
        shared.life.send_replace(Life::Ended(self.ending));
        shared.registry.close();
        if let Time::Manual(clock) = &shared.time {
            clock.set_busy(false);
        }
    }
}
