//! Births, renewals and retirements, as the Reporter's first loop makes them.

use super::super::agenda::Part;
use super::super::env::Env;
use super::super::mark::Mark;
use super::super::op::{Answer, Op, Ticket, Value, told};
use super::Process;
use super::hand::Life;
use locker_core::backend::{Birth, Renewal, Reply};
use locker_core::machine::Step;
use locker_core::machine::report::{End, Report, ReportStep, Request};
use locker_core::{Effect, Instant, ProcessHash};
use std::sync::Arc;
use std::time::Duration;

/// The Reporter's loop of reports.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    machine: Option<Report>,
    in_flight: Option<Ticket>,
    due: Option<Instant>,
    /// When, in true time, the machine was begun.
    begun: Duration,
    /// The living incarnation.
    pub(super) life: Option<Arc<Life>>,
    retirements: Vec<Retirement>,
    next_retirement: u32,
}

/// An incarnation that has ended here, while its record may live on at the store.
#[derive(Debug)]
struct Retirement {
    id: u32,
    life: Arc<Life>,
    machine: Option<Report>,
    begun: bool,
    in_flight: Option<Ticket>,
}

impl Reporter {
    /// Goes on with the machine of a living incarnation.
    pub(super) fn resume(&mut self, machine: Report, due: Instant, life: Arc<Life>) {
        self.machine = Some(machine);
        self.due = Some(due);
        self.life = Some(life);
    }
}

impl Process {
    /// The incarnation on which a grant could stand now.
    pub(super) fn recent_life(&self, now: Instant) -> Option<Arc<Life>> {
        let life = self.reporter.life.as_ref()?;
        let recent = life.deadline.is_valid(now)
            && life
                .deadline
                .get()
                .is_some_and(|hard| now < self.timing.soft(hard));
        recent.then(|| Arc::clone(life))
    }

    /// Every incarnation whose record the kernel keeps alive: the living and those that have ended
    /// and are not retired.
    pub(super) fn lives(&self) -> Vec<ProcessHash> {
        let machine = self.reporter.machine.as_ref();
        let current = machine.map(|machine| machine.process().clone());
        let ended = self.reporter.retirements.iter();
        let ended = ended.map(|ended| ended.life.process.clone());
        current.into_iter().chain(ended).collect()
    }

    pub(super) fn begin_incarnation(&mut self, env: &mut Env) {
        let nonce = u128::from(env.rng.bits() >> 24);
        let process = ProcessHash::new(&self.host, self.boot, nonce);
        let seed = env.rng.bits();
        let now = self.now(env);
        self.reporter.begun = env.at;
        self.names.insert(process.clone());
        let step = Report::begin(now, process, self.timing, seed);
        self.report_step(env, step);
    }

    pub(super) fn wake_reports(&mut self, env: &mut Env) {
        if self.exited || self.reporter.in_flight.is_some() {
            return;
        }
        let now = self.now(env);
        let due = self.reporter.due.is_some_and(|due| now >= due);
        let Some(machine) = self.reporter.machine.take() else {
            // Between two incarnations.
            if self.is_done() {
                self.exit(env);
            } else if due {
                self.begin_incarnation(env);
            }
            return;
        };
        // Like the driver: whoever retires has lost everything already, and waits for his next try.
        let lost = !machine.is_retiring()
            && machine
                .deadline()
                .is_some_and(|deadline| deadline.get().is_none());
        if self.is_done() && self.reporter.life.is_some() {
            self.reporter.life = None;
            let step = machine.retire(now);
            self.report_step(env, step);
        } else if due || lost {
            let step = machine.on_wake(now);
            self.report_step(env, step);
        } else {
            self.reporter.machine = Some(machine);
        }
    }

    pub(super) fn on_report(&mut self, env: &mut Env, ticket: Ticket, answer: Answer) {
        if self.reporter.in_flight != Some(ticket) {
            return;
        }
        self.reporter.in_flight = None;
        let Some(machine) = self.reporter.machine.take() else {
            return;
        };
        self.heard(env, ticket, &answer);
        let now = self.now(env);
        let acknowledged = matches!(
            &answer,
            Ok(Reply {
                value: Value::Renewed(Renewal::Renewed { .. }) | Value::Born(Birth::Created { .. }),
                ..
            })
        );
        let step = match &env.flights[ticket.0].op {
            Op::CreateProcess(..) => machine.on_birth(now, told(answer)),
            Op::RenewProcess(..) => machine.on_renewal(now, told(answer)),
            _ => machine.on_retired(now, answer.map(|reply| reply.map(|_| ()))),
        };
        if acknowledged && matches!(step, Step::Done(End::Lapsed)) {
            env.log.mark(Mark::AcknowledgedTooLate);
        }
        self.report_step(env, step);
    }

    fn report_step(&mut self, env: &mut Env, step: ReportStep) {
        match step {
            Step::Call(machine, request) => {
                let ttl = self.timing.liveness_ttl;
                let op = match request {
                    Request::Create(process) => Op::CreateProcess(process, ttl),
                    Request::Renew(process) => Op::RenewProcess(process, ttl),
                    Request::Retire(process) => Op::RetireProcess(process),
                };
                self.reporter.machine = Some(machine);
                self.reporter.due = None;
                self.reporter.in_flight = Some(self.send(env, Part::Reports, op));
            }
            Step::Sleep(machine, until) => {
                if self.reporter.life.is_none()
                    && let Some(deadline) = machine.deadline()
                    && deadline.get().is_some()
                {
                    self.born(env, machine.process().clone(), Arc::clone(deadline));
                }
                self.reporter.machine = Some(machine);
                self.reporter.due = Some(until);
                self.wake_at(env, Part::Reports, until);
            }
            Step::Done(end) => self.ended(env, &end),
        }
    }

    fn born(
        &mut self,
        env: &mut Env,
        process: ProcessHash,
        deadline: Arc<locker_core::deadline::Deadline>,
    ) {
        env.note(self.index, format_args!("lives as {process}"));
        env.log.tally.incarnations += 1;
        self.reporter.life = Some(Arc::new(Life {
            process,
            deadline,
            since: self.reporter.begun,
        }));
    }

    fn ended(&mut self, env: &mut Env, end: &End) {
        env.note(self.index, format_args!("incarnation ends: {end:?}"));
        match end {
            End::Lapsed => env.log.mark(Mark::Lapsed),
            End::Stillborn(Some(error)) if error.effect() == Effect::Unknown => {
                env.log.mark(Mark::BirthAbandoned);
            }
            _ => {}
        }
        let now = self.now(env);
        if let Some(life) = self.reporter.life.take() {
            let id = self.reporter.next_retirement;
            self.reporter.next_retirement += 1;
            self.reporter.retirements.push(Retirement {
                id,
                life,
                machine: None,
                begun: false,
                in_flight: None,
            });
        }
        let pause = match end {
            End::Retired | End::RanOut(_) => return self.exit(env),
            End::Stillborn(_) => self.timing.retry_after,
            End::Lapsed | End::Gone => std::time::Duration::ZERO,
        };
        self.reporter.due = Some(now + pause);
        self.wake_at(env, Part::Reports, now + pause);
        // Whoever stands on it learns it from its deadline, now.
        self.watch(env);
    }

    fn exit(&mut self, env: &mut Env) {
        env.note(self.index, format_args!("has exited"));
        self.exited = true;
        self.up = false;
        env.facts.push(super::super::invariants::Fact::Exited {
            process: self.index,
            boot: self.boot,
        });
    }

    /// Retires the ended incarnations that nothing stands on any more.
    pub(super) fn retire_empty(&mut self, env: &mut Env) {
        if self.reporter.retirements.iter().all(|ended| ended.begun) {
            return;
        }
        let now = self.now(env);
        let mut steps = Vec::new();
        for ended in &mut self.reporter.retirements {
            let tenants = self
                .hands
                .values()
                .any(|hand| hand.life.process == ended.life.process);
            if !ended.begun && !tenants {
                ended.begun = true;
                let process = ended.life.process.clone();
                steps.push((ended.id, Report::retire_ended(now, process, self.timing)));
            }
        }
        for (id, step) in steps {
            self.retirement_step(env, id, step);
        }
    }

    fn retirement(&mut self, id: u32) -> Option<&mut Retirement> {
        let mut all = self.reporter.retirements.iter_mut();
        all.find(|ended| ended.id == id)
    }

    pub(super) fn wake_retirement(&mut self, env: &mut Env, id: u32) {
        let now = self.now(env);
        let Some(ended) = self.retirement(id) else {
            return;
        };
        if ended.in_flight.is_none()
            && let Some(machine) = ended.machine.take()
        {
            let step = machine.on_wake(now);
            self.retirement_step(env, id, step);
        }
    }

    pub(super) fn on_retirement(&mut self, env: &mut Env, id: u32, ticket: Ticket, answer: Answer) {
        let now = self.now(env);
        let Some(ended) = self.retirement(id) else {
            return;
        };
        if ended.in_flight == Some(ticket)
            && let Some(machine) = ended.machine.take()
        {
            ended.in_flight = None;
            let step = machine.on_retired(now, answer.map(|reply| reply.map(|_| ())));
            self.retirement_step(env, id, step);
        }
    }

    fn retirement_step(&mut self, env: &mut Env, id: u32, step: ReportStep) {
        match step {
            Step::Call(machine, _) => {
                let process = machine.process().clone();
                let ticket = self.send(env, Part::Retirement(id), Op::RetireProcess(process));
                if let Some(ended) = self.retirement(id) {
                    ended.machine = Some(machine);
                    ended.in_flight = Some(ticket);
                }
            }
            Step::Sleep(machine, until) => {
                if let Some(ended) = self.retirement(id) {
                    ended.machine = Some(machine);
                }
                self.wake_at(env, Part::Retirement(id), until);
            }
            Step::Done(_) => self.reporter.retirements.retain(|ended| ended.id != id),
        }
    }
}
