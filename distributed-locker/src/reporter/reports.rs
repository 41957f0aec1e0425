//! The loop that says "I am alive".

use crate::events::{EndReason, ReporterEvent};
use crate::incarnation::Incarnation;
use crate::link::{Link, Silence};
use crate::shared::{Ending, Life, Shared};
use crate::time::{Alarm, Time, WallClock};
use locker_core::machine::report::{End, Report, ReportStep, Request};
use locker_core::machine::{Jitter, Step};
use locker_core::{Backend, BackendError, Effect, Instant, ProcessHash};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Lives one incarnation after the other, until the locker is drained and nothing is left.
pub(super) async fn run(
    shared: &Arc<Shared>,
    link: &Link,
    upkeep: &Arc<Link>,
    alarm: Alarm,
    random: Random,
) -> Ending {
    let mut reports = Reports {
        shared,
        link,
        upkeep,
        alarm,
        random: Some(random),
        ending: Ending::Gone,
        jitter: Jitter::new(u64::from(shared.made_in.pid())),
        stillborn: 0,
        wall: WallClock::begin(),
    };
    while !reports.is_done() {
        reports.incarnation().await;
    }
    reports.ending
}

struct Reports<'a> {
    shared: &'a Arc<Shared>,
    link: &'a Link,
    upkeep: &'a Arc<Link>,
    alarm: Alarm,
    /// For the first incarnation.
    random: Option<Random>,
    /// What would be left at the store if this were the end.
    ending: Ending,
    jitter: Jitter,
    /// How many births in a row have failed.
    stillborn: u32,
    wall: WallClock,
}

impl Reports<'_> {
    fn is_done(&self) -> bool {
        self.shared.draining.get().is_some() && self.shared.registry.is_empty()
    }

    async fn incarnation(&mut self) {
        let shared = self.shared;
        let random = self.random.take().map_or_else(random, Ok);
        let (nonce, seed) = match random {
            Ok(random) => random,
            Err(error) => {
                let event = ReporterEvent::System(Arc::new(error));
                shared.events.report(event);
                return self.pause(shared.timing.report_every).await;
            }
        };
        let process = ProcessHash::new(&shared.host, shared.made_in.pid(), nonce);
        let mut born: Option<Arc<Incarnation>> = None;
        let mut step = Report::begin(shared.time.now(), process.clone(), shared.timing, seed);
        let end = loop {
            step = match step {
                Step::Done(end) => break end,
                Step::Call(machine, request) => self.call(machine, request).await,
                Step::Sleep(machine, until) => {
                    if born.is_none()
                        && let Some(deadline) = machine.deadline()
                    {
                        let incarnation =
                            Arc::new(Incarnation::new(process.clone(), Arc::clone(deadline)));
                        born = Some(Arc::clone(&incarnation));
                        self.stillborn = 0;
                        shared.events.report(ReporterEvent::Born(process.clone()));
                        shared.life.send_replace(Life::Alive(incarnation));
                    }
                    self.rest(machine, until).await
                }
            };
            // A confirmed report has moved the deadlines; an ended one has lost them.
            shared.bells.watchdog.notify_one();
            shared.executioner.ring();
        };
        self.ended(end, process, born).await;
    }

    /// Waits for the next report; retires instead when nothing depends on this process any more.
    async fn rest(&mut self, machine: Report, until: Instant) -> ReportStep {
        if machine.is_retiring() {
            // The store refuses, and is asked again when the machine says so.
            self.shared.time.sleep_until(until).await;
            return machine.on_wake(self.shared.time.now());
        }
        loop {
            // Before the look: whatever leaves after it rings.
            let left = self.shared.registry.left.notified();
            if self.is_done() {
                return machine.retire(self.shared.time.now());
            }
            if machine
                .deadline()
                .is_some_and(|deadline| deadline.get().is_none())
            {
                return machine.on_wake(self.shared.time.now());
            }
            tokio::select! {
                () = self.alarm.ring(until) => {
                    if self.shared.time.now() >= until {
                        return machine.on_wake(self.shared.time.now());
                    }
                }
                () = self.shared.bells.reports.notified() => {}
                // While draining, whatever leaves may be the last.
                () = left, if self.shared.draining.get().is_some() => {}
            }
        }
    }

    async fn call(&mut self, machine: Report, request: Request) -> ReportStep {
        let shared = self.shared;
        let ttl = shared.timing.liveness_ttl;
        let sent = shared.time.now();
        match request {
            Request::Create(process) => {
                let answer = self
                    .link
                    .call(async |store| store.create_process(&process, ttl).await)
                    .await;
                answer
                    .as_ref()
                    .map(|reply| shared.heard(sent, reply))
                    .unwrap_or_default();
                machine.on_birth(shared.time.now(), answer)
            }
            Request::Renew(process) => {
                let answer = self
                    .link
                    .call(async |store| store.renew_process(&process, ttl).await)
                    .await;
                match &answer {
                    Ok(reply) => shared.heard(sent, reply),
                    Err(error) => shared.events.report(ReporterEvent::Failed(error.clone())),
                }
                self.compare_clocks(&machine);
                machine.on_renewal(shared.time.now(), answer)
            }
            Request::Retire(process) => {
                let answer = self
                    .link
                    .call(async |store| store.retire_process(&process).await)
                    .await;
                if let Err(error) = &answer {
                    shared.events.report(ReporterEvent::Failed(error.clone()));
                    *shared.not_retired() = Some(error.clone());
                }
                machine.on_retired(shared.time.now(), answer)
            }
        }
    }

    async fn ended(&mut self, end: End, process: ProcessHash, born: Option<Arc<Incarnation>>) {
        let shared = self.shared;
        let why = match end {
            End::Retired => {
                self.ending = Ending::Gone;
                return shared.events.report(ReporterEvent::Retired(process));
            }
            End::RanOut(error) => {
                self.ending = Ending::Unconfirmed;
                let event = ReporterEvent::NotRetired { process, error };
                return shared.events.report(event);
            }
            End::Stillborn(error) => return self.stillborn(error).await,
            End::Lapsed => {
                // Its last renewal may have been executed after all.
                self.ending = Ending::Unconfirmed;
                EndReason::Lapsed
            }
            End::Gone => {
                self.ending = Ending::Gone;
                EndReason::RecordGone
            }
        };
        // The losses first: of more than a queue holds the oldest are forgotten, and this must not be
        // one of them.
        let held = shared.registry.held();
        let held = held
            .iter()
            .filter(|entry| entry.owner().process() == &process);
        let locks = held.inspect(|entry| drop(entry.judge(shared))).count();
        let ended = ReporterEvent::Ended {
            process,
            why,
            locks,
        };
        shared.events.report(ended);
        shared.life.send_replace(Life::Unborn(None));
        if let Some(incarnation) = born {
            let upkeep = Arc::clone(self.upkeep);
            let shared = Arc::clone(shared);
            tokio::spawn(retire_when_empty(shared, upkeep, incarnation));
        }
    }

    async fn stillborn(&mut self, error: Option<BackendError>) {
        self.stillborn += 1;
        // Without an error its record was there, or was confirmed too late.
        if error.as_ref().map(BackendError::effect) != Some(Effect::NotApplied) {
            self.ending = Ending::Unconfirmed;
        }
        if let Some(error) = &error {
            let event = ReporterEvent::Failed(error.clone());
            self.shared.events.report(event);
        }
        let unborn = Life::Unborn(error.map(Arc::new));
        self.shared.life.send_replace(unborn);
        // The store may be down for everybody: after the second failure, spread.
        let longest = if self.stillborn < 3 {
            self.shared.timing.retry_after
        } else {
            self.shared.timing.report_every
        };
        let pause = self.jitter.up_to(longest);
        self.pause(pause).await;
    }

    async fn pause(&mut self, duration: Duration) {
        let until = self.shared.time.now() + duration;
        loop {
            // Before the look: whatever leaves after it rings.
            let left = self.shared.registry.left.notified();
            if self.shared.time.now() >= until || self.is_done() {
                return;
            }
            tokio::select! {
                () = self.alarm.ring(until) => {}
                () = self.shared.bells.reports.notified() => {}
                // While draining, whatever leaves may be the last.
                () = left, if self.shared.draining.get().is_some() => {}
            }
        }
    }

    /// Notices a wall clock that was stepped, or a boot clock that was stopped (A4).
    fn compare_clocks(&mut self, machine: &Report) {
        if matches!(self.shared.time, Time::Manual(_)) {
            return;
        }
        let moved = self.wall.look();
        if moved > self.shared.timing.hard_margin {
            let event = ReporterEvent::WallClockJumped(moved);
            self.shared.events.report(event);
            if self.shared.lose_on_pause
                && let Some(deadline) = machine.deadline()
            {
                deadline.lose();
            }
        }
    }
}

/// The record of an incarnation that has ended here may live on at the store: its last renewal may
/// have been executed after all. As soon as none of its jobs is left, it is retired, so that nobody
/// waits for it.
async fn retire_when_empty(shared: Arc<Shared>, link: Arc<Link>, incarnation: Arc<Incarnation>) {
    incarnation.wait_empty().await;
    let process = incarnation.process.clone();
    let mut step = Report::retire_ended(shared.time.now(), process, shared.timing);
    loop {
        step = match step {
            Step::Done(_) => return,
            Step::Sleep(machine, until) => {
                shared.time.sleep_until(until).await;
                machine.on_wake(shared.time.now())
            }
            Step::Call(machine, request) => {
                let (Request::Create(process) | Request::Renew(process) | Request::Retire(process)) =
                    request;
                // Its record may well lie where the store is silent: that may be why it has ended.
                // It does not have to get through, and the next one's locks are extended here.
                let retire = async |store: Arc<dyn Backend>| store.retire_process(&process).await;
                let answer = link.send(retire, Silence::IsKnown).await;
                machine.on_retired(shared.time.now(), answer)
            }
        };
    }
}

/// 128 bits for the process hash, and a seed for the jitter.
pub(super) type Random = (u128, u64);

pub(super) fn random() -> io::Result<Random> {
    let refused = |error: getrandom::Error| match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    };
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(refused)?;
    let seed = getrandom::u64().map_err(refused)?;
    Ok((u128::from_ne_bytes(nonce), seed))
}
