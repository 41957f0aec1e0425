//! One run: a cluster, its store, its troubles, and the invariants that watch it.

use super::agenda::{Agenda, Call, Event, Knock};
use super::env::Env;
use super::fault::Fault;
use super::history::History;
use super::invariants::{self, Fact, Invariant, View, Violation};
use super::marks::Watcher;
use super::network;
use super::op::{Op, Outbox, Subscription, Ticket};
use super::plan::Plan;
use super::process::Process;
use super::rng::Rng;
use super::store::{Asked, Holder, Kind, StoreModel};
use locker_core::backend::Hint;
use std::time::Duration;

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// On which store.
    pub kind: Kind,
    /// What was violated, if anything was.
    pub violation: Option<Violation>,
    /// What happened.
    pub history: History,
    /// How long it lasted, in the simulated world.
    pub lasted: Duration,
    /// How long after the end of the faults everybody had been served.
    pub healed_within: Duration,
}

/// Plays the history of this seed. With `as_text` it can be read afterwards.
pub fn run(seed: u64, as_text: bool) -> Run {
    let mut world = World::new(seed, as_text);
    let violation = world.play().err();
    if let Some(violation) = &violation {
        let text = violation.to_string();
        world
            .env
            .log
            .note(world.env.at, "!", format_args!("{text}"));
    }
    Run {
        seed,
        kind: world.env.plan.kind,
        violation,
        lasted: world.env.at,
        healed_within: world.healed_within,
        history: world.env.log,
    }
}

pub(super) struct World {
    pub(super) env: Env,
    pub(super) store: Box<dyn StoreModel>,
    pub(super) processes: Vec<Process>,
    invariants: Vec<Box<dyn Invariant>>,
    healed_within: Duration,
    /// When the store is woken next.
    store_wake: Option<Duration>,
}

impl World {
    fn new(seed: u64, as_text: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let store = plan.kind.model(&plan);
        let keys = plan.key_names();
        let mut env = Env {
            at: Duration::ZERO,
            rng,
            agenda: Agenda::default(),
            log: History::new(as_text),
            plan,
            keys,
            facts: Vec::new(),
            flights: Vec::new(),
            healed: false,
            breach: None,
            cloned: None,
            marks: Watcher::default(),
            kernel: Vec::new(),
        };
        let plan = format!("{:?}", env.plan);
        env.log.note(env.at, "plan", format_args!("{plan}"));
        env.agenda.add(env.plan.heals_at, Event::Heal);
        env.agenda.add(env.plan.trouble_every, Event::Trouble);
        if env.plan.breach.is_some() {
            env.agenda.add(env.plan.breach_at, Event::Breach);
        }
        let processes = (0..env.plan.processes)
            .map(|index| Process::start(&mut env, index, 1))
            .collect();
        Self {
            env,
            store,
            processes,
            invariants: invariants::all(),
            healed_within: Duration::ZERO,
            store_wake: None,
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        let give_up = self.env.plan.heals_at + self.env.plan.heals_within();
        while let Some((at, number, event)) = self.env.agenda.pop() {
            if at > give_up {
                break;
            }
            self.env.at = at;
            self.env.log.played(at, number);
            self.store.advance(at);
            self.on_event(event);
            self.check()?;
            if self.env.healed && self.processes.iter().all(Process::has_finished) {
                self.healed_within = at.saturating_sub(self.env.plan.heals_at);
                break;
            }
        }
        self.end()
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Arrival(ticket) => self.with_store(Some(ticket)),
            Event::StoreWake => {
                if self.store_wake.is_some_and(|due| due <= self.env.at) {
                    self.with_store(None);
                }
            }
            Event::Process(knock) => self.knock(knock),
            Event::Trouble => self.trouble(),
            Event::Breach => self.breach(),
            Event::Start(index) => {
                let process = &self.processes[index];
                if !process.up && !process.has_finished() {
                    let boot = process.boot + 1;
                    self.processes[index] = Process::start(&mut self.env, index, boot);
                }
            }
            Event::Heal => self.heal(),
        }
    }

    fn knock(&mut self, knock: Knock) {
        let process = &mut self.processes[knock.process];
        let was_up = process.up;
        process.on_knock(&mut self.env, knock);
        if was_up && process.exited && !process.has_finished() {
            let index = process.index;
            self.env.log.fault(Fault::CleanExit);
            self.start_again(index);
        }
    }

    pub(super) fn start_again(&mut self, index: usize) {
        if self.processes[index].twin_of.is_some() {
            return;
        }
        let longest = if self.env.healed { 50 } else { 1500 };
        let pause = self
            .env
            .rng
            .between(Duration::ZERO, Duration::from_millis(longest));
        self.env
            .agenda
            .add(self.env.at + pause, Event::Start(index));
    }

    /// Lets the store take a request, or go on, and says what that changed.
    fn with_store(&mut self, ticket: Option<Ticket>) {
        let mut out = Outbox::default();
        let mut before = self.holders();
        let op = ticket.map(|ticket| self.env.flights[ticket.0].op.clone());
        let process = op.as_ref().and_then(Op::process).cloned();
        let was_alive = process.as_ref().map(|process| self.store.is_alive(process));
        match (ticket, &op) {
            (Some(ticket), Some(op)) => {
                let sent = self.env.flights[ticket.0].sent;
                self.store.receive(Asked { ticket, op, sent }, &mut out);
            }
            _ => {
                self.store_wake = None;
                self.store.wake(&mut out);
            }
        }
        if let (Some(process), Some(before)) = (process, was_alive) {
            let after = self.store.is_alive(&process);
            self.env.facts.push(Fact::Process {
                process,
                before,
                after,
            });
        }
        if let Some(process) = out.revived.take() {
            self.env.facts.push(Fact::Revived { process });
        }
        // The clock may have been stepped back between the judgement and the commit.
        if let Some(dead) = out.judged_dead.take() {
            let of_it = |holder: &&mut Holder| *holder.owner.process() == dead;
            let robbed = before.iter_mut().flatten().filter(of_it);
            robbed.for_each(|holder| holder.alive = false);
        }
        let by = out.by.map(|by| self.env.flights[by.0].op.clone()).or(op);
        self.note_changes(before, by.as_ref());
        self.deliver(out);
    }

    pub(super) fn note_changes(&mut self, before: Vec<Option<Holder>>, by: Option<&Op>) {
        let after = self.holders();
        for (key, (before, after)) in before.into_iter().zip(after).enumerate() {
            if before == after && by.is_none_or(|op| op.scope().is_none()) {
                continue;
            }
            if let (Some(before), Some(after)) = (&before, &after)
                && before.owner != after.owner
            {
                self.env.log.tally.take_overs += 1;
            }
            self.env.facts.push(Fact::Record {
                key,
                before,
                after,
                by: by.cloned(),
            });
        }
    }

    /// Sends off what the store has to say.
    pub(super) fn deliver(&mut self, out: Outbox) {
        for fault in out.faults {
            self.env.log.fault(fault);
        }
        for mark in out.marks {
            self.env.log.mark(mark);
        }
        for (ticket, answer) in out.answers {
            self.env.log.note(
                self.env.at,
                "store",
                format_args!("#{}: {answer:?}", ticket.0),
            );
            let fact = Fact::answered(&self.env.flights[ticket.0].op, &answer);
            self.env.facts.extend(fact);
            let mut marks = std::mem::take(&mut self.env.marks);
            marks.on_answer(&mut self.env, &self.processes, ticket, &answer);
            self.env.marks = marks;
            self.env.send_back(ticket, answer);
        }
        for (subscription, hint) in out.hints {
            self.hint(subscription, hint);
        }
        self.wake_store();
    }

    fn wake_store(&mut self) {
        let Some(at) = self.store.next_wake() else {
            return;
        };
        let at = at.max(self.env.at);
        if self.store_wake.is_none_or(|already| at < already) {
            self.store_wake = Some(at);
            self.env.agenda.add(at, Event::StoreWake);
        }
    }

    fn hint(&mut self, to: Subscription, hint: Hint) {
        let weather = self.env.weather();
        let mut copies = 1;
        if self.env.strikes(weather.hint_lost) {
            self.env.log.fault(Fault::HintLost);
            copies = 0;
        } else if self.env.strikes(weather.doubled) {
            self.env.log.fault(Fault::HintDoubled);
            copies = 2;
        }
        for _ in 0..copies {
            let mut at = self.env.at + network::short(&mut self.env.rng);
            if self.env.strikes(weather.hint_lost / 2) {
                self.env.log.fault(Fault::HintLate);
                let late = Duration::from_millis(900);
                at += self.env.rng.between(Duration::from_millis(5), late);
            }
            let call = Call::Hint(to, hint);
            self.env.knock(at, (to.process, to.boot), call);
        }
    }

    pub(super) fn holders(&self) -> Vec<Option<Holder>> {
        self.env
            .keys
            .iter()
            .map(|key| self.store.holder(key))
            .collect()
    }

    fn check(&mut self) -> Result<(), Violation> {
        for process in std::mem::take(&mut self.env.kernel) {
            self.store.crashed(&process);
        }
        let facts = std::mem::take(&mut self.env.facts);
        let mut marks = std::mem::take(&mut self.env.marks);
        for fact in &facts {
            marks.on_fact(&mut self.env, fact);
        }
        self.env.marks = marks;
        for fact in &facts {
            self.count(fact);
        }
        let view = View {
            at: self.env.at,
            healed: self.env.healed,
            plan: &self.env.plan,
            breach: self.env.breach,
            cloned: self.env.cloned.as_ref(),
            processes: &self.processes,
            tenures: invariants::tenures(&self.processes, self.env.at),
            store: &*self.store,
            keys: &self.env.keys,
            facts: &facts,
        };
        let verdict = self
            .invariants
            .iter_mut()
            .try_for_each(|invariant| invariant.check(&view));
        self.env.facts = facts;
        self.env.facts.clear();
        verdict
    }

    fn count(&mut self, fact: &Fact) {
        let tally = &mut self.env.log.tally;
        match fact {
            Fact::Completed {
                confirmed: true, ..
            } => tally.completed += 1,
            Fact::Completed { .. } => tally.unconfirmed += 1,
            Fact::Late { sound: true, .. } => tally.late += 1,
            _ => {}
        }
    }

    /// After the end of all processes: what is still under way lands, and then nothing is left.
    fn end(&mut self) -> Result<(), Violation> {
        while let Some((at, number, event)) = self.env.agenda.pop() {
            if matches!(event, Event::Arrival(_) | Event::StoreWake) {
                self.env.at = self.env.at.max(at);
                self.env.log.played(at, number);
                self.store.advance(self.env.at);
                self.on_event(event);
                self.check()?;
            }
        }
        self.env.at += self.env.plan.timing.liveness_ttl * 2 + self.env.plan.believed();
        self.store.advance(self.env.at);
        let view = View {
            at: self.env.at,
            healed: true,
            plan: &self.env.plan,
            breach: self.env.breach,
            cloned: self.env.cloned.as_ref(),
            processes: &self.processes,
            tenures: invariants::tenures(&self.processes, self.env.at),
            store: &*self.store,
            keys: &self.env.keys,
            facts: &[],
        };
        self.invariants
            .iter_mut()
            .try_for_each(|invariant| invariant.at_end(&view))
    }
}
