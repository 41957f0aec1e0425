//! One process: its machines, driven as the driver drives them, each request handed to the world.

use crate::ask::{Ask, Said};
use locker_core::deadline::Deadline;
use locker_core::machine::acquire::{AcquireStep, Outcome, Patience};
use locker_core::machine::hold::HoldStep;
use locker_core::machine::release::ReleaseStep;
use locker_core::machine::report::ReportStep;
use locker_core::machine::{Acquire, Hold, Release, Report, Step, Tenure};
use locker_core::time::StoreClock;
use locker_core::{Host, Instant, Key, OwnerHash, ProcessHash, StoreTime, Timing};
use std::sync::Arc;
use std::time::Duration;

/// Which of the two TTLs is the shorter one, so that its end comes within a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    Life,
    Lock,
}

/// The shorter TTL is little more than a second, so that a tick falls between the last moment of an
/// owner by the formula and by every shorter formula; two reports, or extends, fit into it.
pub(crate) fn timing(short: Short) -> Timing {
    let ttl = Duration::from_millis(1060);
    let every = Duration::from_millis(500);
    let (life, lock) = match short {
        Short::Life => (1, 2),
        Short::Lock => (2, 1),
    };
    Timing {
        liveness_ttl: ttl * life,
        report_every: every * life,
        lock_ttl: ttl * lock,
        extend_every: every * lock,
        recheck_every: Duration::from_millis(700),
        request_timeout: Duration::from_millis(300),
        retry_after: Duration::from_millis(250),
        drift_permille: 50,
        stop_budget: Duration::from_millis(100),
        hard_margin: Duration::from_millis(50),
        start_timeout: Duration::from_secs(1),
    }
}

pub(crate) fn key() -> Key {
    Key::new("k").expect("a key")
}

#[derive(Debug)]
enum Doing {
    Waiting,
    Asking(Option<Acquire>, Option<Instant>),
    Holding(Option<Hold>, Option<Instant>),
    GivingBack(Option<Release>, Option<Instant>),
    Over,
}

/// One process, and the one lock that it wants once.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) up: bool,
    timing: Timing,
    name: ProcessHash,
    report: Option<Report>,
    report_due: Option<Instant>,
    life: Option<Arc<Deadline>>,
    doing: Doing,
    pub(crate) tenure: Option<Arc<Tenure>>,
    pub(crate) was_lost: bool,
    unsettled: Option<StoreTime>,
    /// What it asks for now.
    pub(crate) asks: Vec<Ask>,
}

impl Process {
    pub(crate) fn begin(at: Instant, place: u128, timing: Timing) -> Self {
        let host = Host::new("h").expect("a host");
        let name = ProcessHash::new(&host, 1, place);
        let mut process = Self {
            up: true,
            timing,
            name: name.clone(),
            report: None,
            report_due: None,
            life: None,
            doing: Doing::Waiting,
            tenure: None,
            was_lost: false,
            unsettled: None,
            asks: Vec::new(),
        };
        process.on_report(Report::begin(at, name, timing, 1));
        process
    }

    fn owner(&self) -> OwnerHash {
        OwnerHash::new(&key(), &self.name, 1, None)
    }

    /// Begins to ask for the lock, once it is born.
    pub(crate) fn want(&mut self, at: Instant, told: StoreTime) {
        let born = self.life.as_ref().is_some_and(|life| life.is_valid(at));
        if !self.up || !born || !matches!(self.doing, Doing::Waiting) {
            return;
        }
        let patience = Patience {
            wait_until: Some(Instant::FAR_FUTURE),
            ask_until: at + Duration::from_secs(1),
            poll_every: Duration::from_millis(500),
            cheap_death_poll: None,
        };
        let mut clock = StoreClock::default();
        clock.observe(at, told, at, &self.timing);
        let step = Acquire::begin(at, self.owner(), self.timing, patience, clock, 1);
        self.on_acquire(at, step);
    }

    /// Whether it holds the lock by its own belief.
    pub(crate) fn holds(&self) -> bool {
        self.up && matches!(self.doing, Doing::Holding(..))
    }

    /// Its job is done.
    pub(crate) fn give_back(&mut self, at: Instant) {
        let tenure = self.tenure.as_ref().expect("it holds");
        drop(tenure.close(at));
        self.was_lost = true;
        let gone_by = at + self.timing.lock_ttl;
        let begun = Release::begin(self.owner(), self.timing, gone_by, self.unsettled);
        self.doing = Doing::GivingBack(None, None);
        self.on_release(Step::Call(begun.0, begun.1));
    }

    pub(crate) fn wake(&mut self, at: Instant) {
        let due = |due: &Option<Instant>| due.is_some_and(|due| due <= at);
        if !self.up {
            return;
        }
        if due(&self.report_due)
            && let Some(machine) = self.report.take()
        {
            self.report_due = None;
            self.on_report(machine.on_wake(at));
        }
        match &mut self.doing {
            Doing::Asking(machine, until) if due(until) => {
                *until = None;
                if let Some(machine) = machine.take() {
                    self.on_acquire(at, machine.on_wake(at));
                }
            }
            Doing::Holding(machine, until) if due(until) => {
                *until = None;
                if let Some(machine) = machine.take() {
                    self.on_hold(machine.on_wake(at));
                }
            }
            Doing::GivingBack(machine, until) if due(until) => {
                *until = None;
                if let Some(machine) = machine.take() {
                    self.on_release(machine.on_wake(at));
                }
            }
            _ => {}
        }
    }

    /// Takes an answer, or hears that there is none.
    pub(crate) fn told(&mut self, at: Instant, said: Said) {
        if !self.up {
            return;
        }
        match said {
            Said::Birth(answer) => {
                if let Some(machine) = self.report.take() {
                    self.on_report(machine.on_birth(at, answer));
                }
                return;
            }
            Said::Renewal(answer) => {
                if let Some(machine) = self.report.take() {
                    self.on_report(machine.on_renewal(at, answer));
                }
                return;
            }
            _ => {}
        }
        match (&mut self.doing, said) {
            (Doing::Asking(machine, _), said) => {
                let Some(machine) = machine.take() else {
                    return;
                };
                let step = match said {
                    Said::Claimed(answer) => machine.on_claimed(at, answer),
                    Said::Liveness(answer) => machine.on_liveness(at, answer),
                    Said::Lock(answer) => machine.on_lock(at, answer),
                    other => unreachable!("an acquisition is told {other:?}"),
                };
                self.on_acquire(at, step);
            }
            (Doing::Holding(machine, _), Said::Standing(answer)) => {
                if let Some(machine) = machine.take() {
                    self.on_hold(machine.on_standing(at, answer));
                }
            }
            (Doing::GivingBack(machine, _), said) => {
                let Some(machine) = machine.take() else {
                    return;
                };
                let step = match said {
                    Said::Released(answer) => machine.on_released(at, answer),
                    Said::Settled(answer) => machine.on_settled(at, answer),
                    // What its hold had asked.
                    _ => {
                        self.doing = Doing::GivingBack(Some(machine), None);
                        return;
                    }
                };
                self.on_release(step);
            }
            _ => {}
        }
    }

    fn on_report(&mut self, step: ReportStep) {
        match step {
            Step::Call(machine, request) => {
                self.report = Some(machine);
                self.asks.push(Ask::Report(request));
            }
            Step::Sleep(machine, until) => {
                self.life = machine.deadline().cloned();
                self.report = Some(machine);
                self.report_due = Some(until);
            }
            // A history has one incarnation of each process.
            Step::Done(_) => {}
        }
    }

    fn on_acquire(&mut self, at: Instant, step: AcquireStep) {
        let end = match step {
            Step::Call(machine, request) => {
                self.doing = Doing::Asking(Some(machine), None);
                return self.asks.push(Ask::Acquire(request));
            }
            Step::Sleep(machine, until) => {
                self.doing = Doing::Asking(Some(machine), Some(until));
                return;
            }
            Step::Done(end) => end,
        };
        self.doing = Doing::Over;
        self.unsettled = end.unsettled;
        let (Outcome::Granted { sent, .. }, Some(life)) = (end.outcome, self.life.clone()) else {
            return;
        };
        let until = self.timing.clone().valid_until(sent, self.timing.lock_ttl);
        let budget = self.timing.stop_budget;
        let tenure = Arc::new(Tenure::new(self.owner(), at, until, life, None, budget));
        if tenure.judge(at).is_ok() {
            self.tenure = Some(Arc::clone(&tenure));
            self.doing = Doing::Holding(None, None);
            self.on_hold(Hold::begin(at, tenure, self.timing, Instant::ZERO));
        }
    }

    fn on_hold(&mut self, step: HoldStep) {
        self.doing = match step {
            Step::Call(hold, request) => {
                self.asks.push(Ask::Hold(request));
                Doing::Holding(Some(hold), None)
            }
            Step::Sleep(hold, until) => Doing::Holding(Some(hold), Some(until)),
            Step::Done(_) => Doing::Over,
        };
    }

    fn on_release(&mut self, step: ReleaseStep) {
        self.doing = match step {
            Step::Call(release, request) => {
                self.asks.push(Ask::Release(request));
                Doing::GivingBack(Some(release), None)
            }
            Step::Sleep(release, until) => Doing::GivingBack(Some(release), Some(until)),
            Step::Done(_) => Doing::Over,
        };
    }
}
