//! One process: users' tasks that want locks, and a Reporter that keeps it alive.
//!
//! It runs the machines of `locker-core` in the way of the driver, file by file:
//!
//! | here | in `distributed-locker` |
//! | --- | --- |
//! | [`hand`] | `registry.rs`: attempt, held lock, departure |
//! | `acquiring` | `acquire.rs` |
//! | `leaving` | `guard.rs` (the release), `reporter/departures.rs` |
//! | `reports` | `reporter/reports.rs` |
//! | `upkeep` | `reporter/upkeep.rs`, `reporter/watchdog.rs` |
//! | `twin` | nothing: a clone (A6) |
//! | `task`, `job` | the user: jobs, beats, drops at any moment; `run.rs` |

mod acquiring;
pub mod hand;
mod job;
mod leaving;
mod reports;
mod task;
mod twin;
mod upkeep;

use super::agenda::{Call, Knock, Part};
use super::clock::DriftingClock;
use super::env::Env;
use super::fault::Fault;
use super::mark::Mark;
use super::op::{Answer, Op, Ticket};
use hand::{Hand, Stage};
use locker_core::backend::Reply;
use locker_core::time::StoreClock;
use locker_core::{Host, Instant, ProcessHash, Timing};
use reports::Reporter;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use task::Task;
use upkeep::Upkeep;

/// One process in one of its lives.
#[derive(Debug)]
pub struct Process {
    /// Its place in the cluster.
    pub index: usize,
    /// Which life of it this is.
    pub boot: u32,
    /// Whether it runs.
    pub up: bool,
    /// Whether it has ended by its own will, with nothing left.
    pub exited: bool,
    /// The incarnation that it is a clone of, if it is one: it is not started again.
    pub twin_of: Option<ProcessHash>,
    /// Its incarnations.
    names: BTreeSet<ProcessHash>,
    /// Its owner hashes.
    pub hands: BTreeMap<u32, Hand>,
    /// Whether it takes no more work.
    pub draining: bool,
    clock: DriftingClock,
    host: Host,
    timing: Timing,
    origin: Instant,
    store_clock: StoreClock,
    next_hand: u32,
    /// SIGSTOP until then.
    stopped_until: Duration,
    /// The Reporter's thread, and then each task's, does not run until then.
    stalled_until: Vec<Duration>,
    /// The clock as a descheduled thread has read it.
    read: Option<Instant>,
    reporter: Reporter,
    upkeep: Upkeep,
    watchdog_due: Option<Instant>,
    tasks: Vec<Task>,
}

impl Process {
    /// Starts a process. `boot` is one more than in its last life.
    pub fn start(env: &mut Env, index: usize, boot: u32) -> Self {
        let booted = Instant::from_nanos(1_000_000_000_000 * (index as u64 + 1));
        let clock = DriftingClock::new(booted, env.plan.rates[index]);
        let origin = clock.read(env.at);
        let host = Host::new(format!("p{index}")).expect("a short name is a host name");
        let tasks = env.plan.tasks;
        let mut process = Self {
            index,
            boot,
            up: true,
            exited: false,
            twin_of: None,
            names: BTreeSet::new(),
            hands: BTreeMap::new(),
            draining: false,
            clock,
            host,
            timing: env.plan.timing,
            origin,
            store_clock: StoreClock::default(),
            next_hand: 0,
            stopped_until: Duration::ZERO,
            stalled_until: vec![Duration::ZERO; 1 + tasks],
            read: None,
            reporter: Reporter::default(),
            upkeep: Upkeep::default(),
            watchdog_due: None,
            tasks: Vec::new(),
        };
        env.note(index, format_args!("starts, life {boot}"));
        process.begin_incarnation(env);
        process.begin_upkeep(env);
        for task in 0..tasks {
            let task = Task::new(env, process.now(env), task);
            process.tasks.push(task);
        }
        for task in 0..tasks {
            process.wake_task(env, task);
        }
        process
    }

    /// Whether an incarnation of this name is one of its life. A clone has the same host and number.
    pub fn is_named(&self, process: &ProcessHash) -> bool {
        self.names.contains(process)
    }

    /// Whether an acquisition was given up, and what it may have left is on its way back.
    pub fn is_leaving(&self, hand: u32) -> bool {
        let hand = self.hands.get(&hand);
        hand.is_some_and(|hand| matches!(hand.stage, Stage::Leaving(_)))
    }

    /// The process ends between two instructions; only what was sent lives on.
    pub fn crash(&mut self, env: &mut Env) {
        env.note(self.index, format_args!("is killed"));
        let claims = env.flights.iter().rev().take(40);
        let mut mine = claims.filter(|it| it.process == self.index && it.boot == self.boot);
        if mine.any(|flight| !flight.over && flight.op.is_claim()) {
            env.log.mark(Mark::CrashInFlight);
        }
        let lives = self.lives();
        env.kernel.extend(lives);
        self.up = false;
        self.hands.clear();
        self.tasks.clear();
    }

    /// Its clock. It is never behind what it was.
    pub fn now(&self, env: &Env) -> Instant {
        self.read.unwrap_or_else(|| self.clock.read(env.at))
    }

    /// Its clock, for those who look at it from outside.
    pub fn clock_at(&self, at: Duration) -> Instant {
        self.clock.read(at)
    }

    fn id(&self) -> (usize, u32) {
        (self.index, self.boot)
    }

    /// A hypervisor stops the machine, and its clock (A4).
    pub fn freeze(&mut self, at: Duration, until: Duration) {
        self.clock.halt(at, until);
        self.stop(until);
    }

    /// SIGSTOP, and CONT after a while.
    pub fn stop(&mut self, until: Duration) {
        self.stopped_until = self.stopped_until.max(until);
    }

    /// One thread does not run for a while: the Reporter's (0), or a task's.
    pub fn stall(&mut self, thread: usize, until: Duration) {
        if let Some(stalled) = self.stalled_until.get_mut(thread) {
            *stalled = until.max(*stalled);
        }
    }

    /// Which thread sees to a call: 0 is the Reporter's.
    fn thread(&self, env: &Env, call: &Call) -> usize {
        let part = match call {
            Call::Reply(ticket) | Call::Timeout(ticket) => env.flights[ticket.0].part,
            Call::Alarm(part) => *part,
            Call::Hint(subscription, _) => Part::Hand(subscription.hand),
            Call::Drop { task, .. } => return 1 + task,
            // Threads that belong to nobody else.
            Call::Ask { .. } => return 0,
        };
        match part {
            Part::Reports | Part::Retirement(_) | Part::Upkeep | Part::Watchdog | Part::LetGo => 0,
            Part::Task(task) => 1 + task,
            Part::Hand(id) | Part::Extension(id) => match self.hands.get(&id) {
                Some(hand) => match &hand.stage {
                    Stage::Leaving(leaving) if leaving.by_reporter => 0,
                    _ => 1 + hand.task,
                },
                None => 0,
            },
        }
    }

    /// Takes what has reached it, or puts it off for as long as it, or the thread, does not run.
    pub fn on_knock(&mut self, env: &mut Env, mut knock: Knock) {
        if !self.up || knock.boot != self.boot {
            return;
        }
        if let Call::Ask { hand } = knock.call {
            return self.answer_another_thread(env, hand);
        }
        if let Some(due) = knock.due
            && self.clock.read(env.at) < due
            && !self.clock.is_true()
        {
            // The machine was paused, and its alarms with it.
            let rings = self.clock.when(due);
            return env.agenda.add(rings, super::agenda::Event::Process(knock));
        }
        let thread = self.thread(env, &knock.call);
        let stalled = match knock.read {
            // It is this very call that the thread is at.
            Some(_) => Duration::ZERO,
            None => self.stalled_until[thread],
        };
        let runs_at = self.stopped_until.max(stalled);
        if runs_at > env.at {
            env.agenda
                .add(runs_at, super::agenda::Event::Process(knock));
            return;
        }
        if let Call::Reply(ticket) = knock.call
            && knock.read.is_none()
            && env.strikes(3)
        {
            // The acknowledgement is there, and the thread that would take it is not.
            env.log.fault(Fault::PausedBeforeUpdate);
            let answered = &env.flights[ticket.0];
            let longest = self.timing.liveness_ttl * if answered.op.is_claim() { 2 } else { 1 };
            let runs_at = env.at + env.rng.between(Duration::from_millis(1), longest);
            self.stall(thread, runs_at.min(env.plan.heals_at));
            return env.agenda.add(
                self.stalled_until[thread],
                super::agenda::Event::Process(knock),
            );
        }
        let close_call = self.close_call(env, thread);
        let often = if close_call.is_some() { 250 } else { 2 };
        if knock.read.is_none() && env.strikes(often) {
            // The clock is read, and what is decided by it happens later.
            env.log.fault(Fault::StaleClockReading);
            let longest = self.timing.liveness_ttl * 2;
            let runs_at = env.at + env.rng.between(Duration::from_millis(1), longest);
            let runs_at = runs_at.min(env.plan.heals_at);
            self.stall(thread, runs_at);
            knock.read = Some(self.clock.read(env.at));
            if let Some(hand) = close_call {
                // Meanwhile another thread asks, and again afterwards.
                let asks_at = env.rng.between(env.at, runs_at);
                env.knock(asks_at, self.id(), Call::Ask { hand });
                env.knock(
                    runs_at + Duration::from_micros(1),
                    self.id(),
                    Call::Ask { hand },
                );
            }
            env.agenda
                .add(runs_at, super::agenda::Event::Process(knock));
            return;
        }
        self.read = knock.read;
        self.on_call(env, knock.call);
        self.read = None;
        self.settle_down(env);
    }

    fn on_call(&mut self, env: &mut Env, call: Call) {
        match call {
            Call::Reply(ticket) => {
                if let Some(answer) = env.take_answer(ticket, false) {
                    self.on_answer(env, ticket, answer);
                }
            }
            Call::Timeout(ticket) => {
                if let Some(answer) = env.take_answer(ticket, true) {
                    env.note(self.index, format_args!("#{} times out", ticket.0));
                    self.on_answer(env, ticket, answer);
                }
            }
            Call::Hint(subscription, hint) => self.on_hint(env, subscription.hand, hint),
            Call::Alarm(part) => self.on_alarm(env, part),
            Call::Drop { task, hand } => self.on_drop(env, task, hand),
            Call::Ask { hand } => self.answer_another_thread(env, hand),
        }
    }

    fn on_answer(&mut self, env: &mut Env, ticket: Ticket, answer: Answer) {
        match env.flights[ticket.0].part {
            Part::Reports => self.on_report(env, ticket, answer),
            Part::Retirement(id) => self.on_retirement(env, id, ticket, answer),
            Part::Upkeep => self.on_batch(env, ticket, answer),
            Part::Extension(id) => self.on_extension(env, id, ticket, answer),
            Part::Hand(id) => {
                let Some(hand) = self.hands.get_mut(&id) else {
                    return;
                };
                if hand.in_flight != Some(ticket) {
                    return;
                }
                hand.in_flight = None;
                match &hand.stage {
                    Stage::Asking(_) => self.on_claim_answer(env, id, ticket, answer),
                    Stage::Leaving(_) => self.on_release_answer(env, id, ticket, answer),
                    Stage::Held(_) => {}
                }
            }
            Part::LetGo | Part::Watchdog | Part::Task(_) => {}
        }
    }

    fn on_alarm(&mut self, env: &mut Env, part: Part) {
        match part {
            Part::Reports => self.wake_reports(env),
            Part::Retirement(id) => self.wake_retirement(env, id),
            Part::Upkeep => self.wake_upkeep(env),
            Part::Watchdog => self.watch(env),
            Part::Hand(id) => self.wake_hand(env, id),
            Part::Task(task) => self.wake_task(env, task),
            Part::Extension(_) | Part::LetGo => {}
        }
    }

    /// What follows from any event: an ended incarnation without tenants is retired, and so is a
    /// drained process without hands.
    fn settle_down(&mut self, env: &mut Env) {
        self.retire_empty(env);
        if self.is_done() {
            self.wake_reports(env);
        }
    }

    /// Whether nothing depends on this process any more.
    fn is_done(&self) -> bool {
        self.draining && self.hands.is_empty()
    }

    /// Takes no more work.
    pub fn drain(&mut self, env: &mut Env) {
        if self.draining {
            return;
        }
        env.note(self.index, format_args!("drains"));
        self.draining = true;
        self.drain_tasks(env);
        self.settle_down(env);
    }

    /// The faults have ended: one more acquisition of every key by every task, and then the end.
    pub fn heal(&mut self, env: &mut Env) {
        self.heal_tasks(env);
    }

    /// Whether it has done all it had to do after the faults.
    pub fn has_finished(&self) -> bool {
        if self.twin_of.is_some() {
            return !self.up;
        }
        self.exited && self.tasks.iter().all(Task::has_finished)
    }

    /// What its tasks are at, for people.
    pub fn doing(&self) -> String {
        format!("{:?}", self.tasks)
    }

    fn wake_at(&self, env: &mut Env, part: Part, at: Instant) {
        if at < Instant::FAR_FUTURE {
            let rings = self.clock.when(at).max(env.at);
            env.knock_due(rings, self.id(), Call::Alarm(part), Some(at));
        }
    }

    fn send(&mut self, env: &mut Env, part: Part, op: Op) -> Ticket {
        let gives_up = self
            .clock
            .when(self.clock.read(env.at) + self.timing.request_timeout);
        let ticket = env.send(self.id(), part, op, gives_up);
        if env.strikes(3) {
            env.log.fault(Fault::PausedAfterSend);
            let thread = self.thread(env, &Call::Reply(ticket));
            let longest = self.timing.liveness_ttl * 3 / 2;
            let runs_at = env.at + env.rng.between(Duration::from_millis(1), longest);
            self.stall(thread, runs_at.min(env.plan.heals_at));
        }
        ticket
    }

    fn heard(&mut self, env: &Env, ticket: Ticket, answer: &Answer) {
        if let Ok(Reply {
            store_time: Some(told),
            ..
        }) = answer
        {
            let sent = self.clock.read(env.flights[ticket.0].sent);
            let now = self.now(env);
            let _ = self.store_clock.observe(sent, *told, now, &self.timing);
        }
    }
}
