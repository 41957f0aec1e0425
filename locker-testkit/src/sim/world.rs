//! One run: a cluster, its store, its troubles, and the invariants that watch it.

use super::agenda::{Agenda, Call, Event, Knock};
use super::conduct::{Conduct, Right};
use super::env::Env;
use super::fault::Fault;
use super::history::History;
use super::invariants::{Fact, Invariant, View, Violation};
use super::network;
use super::op::{Op, Outbox, Subscription, Ticket};
use super::plan::{HEALED_WITHIN, Plan};
use super::process::Process;
use super::rng::Rng;
use super::store::{Embedded, Holder, StoreModel};
use locker_core::Key;
use locker_core::backend::Hint;
use std::collections::BTreeSet;
use std::time::Duration;

/// What is simulated: the shipped behaviour, or a mutant of it.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Its name, for people.
    pub name: &'static str,
    /// What a driver decides.
    pub conduct: &'static dyn Conduct,
    /// The store of a run.
    pub store: fn(&Plan) -> Box<dyn StoreModel>,
}

/// The locker as it is shipped, on the embedded store.
pub const SHIPPED: Subject = Subject {
    name: "shipped",
    conduct: &Right,
    store: |plan| Box::new(Embedded::new(plan.store_rate, plan.tells_liveness)),
};

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
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
pub fn run(seed: u64, subject: Subject, as_text: bool) -> Run {
    let mut world = World::new(seed, subject, as_text);
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
    /// Owners whose record went by their own release.
    given_back: BTreeSet<Box<str>>,
}

impl World {
    fn new(seed: u64, subject: Subject, as_text: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let store = (subject.store)(&plan);
        let keys = (0..plan.keys)
            .map(|key| Key::new(format!("k{key}")).expect("a short name is a key"))
            .collect();
        let mut env = Env {
            at: Duration::ZERO,
            rng,
            agenda: Agenda::default(),
            log: History::new(as_text),
            plan,
            keys,
            conduct: subject.conduct,
            facts: Vec::new(),
            flights: Vec::new(),
            healed: false,
        };
        let plan = format!("{:?}", env.plan);
        env.log.note(env.at, "plan", format_args!("{plan}"));
        env.agenda.add(env.plan.heals_at, Event::Heal);
        env.agenda.add(env.plan.trouble_every, Event::Trouble);
        let processes = (0..env.plan.processes)
            .map(|index| Process::start(&mut env, index, 1))
            .collect();
        Self {
            env,
            store,
            processes,
            invariants: super::invariants::all(),
            healed_within: Duration::ZERO,
            given_back: BTreeSet::new(),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        let give_up = self.env.plan.heals_at + HEALED_WITHIN;
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
            Event::StoreWake => self.with_store(None),
            Event::Process(knock) => self.knock(knock),
            Event::Trouble => self.trouble(),
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
        let before = self.holders();
        let mut out = Outbox::default();
        let op = ticket.map(|ticket| self.env.flights[ticket.0].op.clone());
        let process = match &op {
            Some(Op::CreateProcess(process, _) | Op::RenewProcess(process, _)) => Some(process),
            _ => None,
        };
        let was_alive = process.map(|process| self.store.is_alive(process));
        match (ticket, &op) {
            (Some(ticket), Some(op)) => self.store.receive(ticket, op, &mut out),
            _ => self.store.wake(&mut out),
        }
        if let (Some(process), Some(before)) = (process, was_alive) {
            let after = self.store.is_alive(process);
            let process = process.clone();
            self.env.facts.push(Fact::Process {
                process,
                before,
                after,
            });
        }
        let after = self.holders();
        for (key, (before, after)) in before.into_iter().zip(after).enumerate() {
            if before != after || op.as_ref().is_some_and(|op| op.scope().is_some()) {
                if before.as_ref().is_some_and(|before| {
                    after
                        .as_ref()
                        .is_some_and(|after| after.owner != before.owner)
                }) {
                    self.env.log.tally.take_overs += 1;
                }
                self.env.facts.push(Fact::Record {
                    key,
                    before,
                    after,
                    by: op.clone(),
                });
            }
        }
        for (ticket, answer) in out.answers {
            self.env.log.note(
                self.env.at,
                "store",
                format_args!("#{}: {answer:?}", ticket.0),
            );
            self.env
                .facts
                .push(Fact::answered(&self.env.flights[ticket.0].op, &answer));
            self.env.send_back(ticket, answer);
        }
        for (subscription, hint) in out.hints {
            self.hint(subscription, hint);
        }
        if let Some(at) = self.store.next_wake() {
            self.env.agenda.add(at.max(self.env.at), Event::StoreWake);
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
            let at = self.env.at + network::short(&mut self.env.rng);
            let call = Call::Hint(to, hint);
            self.env.knock(at, (to.process, to.boot), call);
        }
    }

    fn holders(&self) -> Vec<Option<Holder>> {
        self.env
            .keys
            .iter()
            .map(|key| self.store.holder(key))
            .collect()
    }

    fn check(&mut self) -> Result<(), Violation> {
        let facts = std::mem::take(&mut self.env.facts);
        for fact in &facts {
            self.count(fact);
        }
        let view = View {
            at: self.env.at,
            healed: self.env.healed,
            processes: &self.processes,
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
            Fact::Late { sound: true, owner } => {
                tally.late += 1;
                tally.late_but_released += u64::from(self.given_back.contains(owner.as_str()));
            }
            Fact::Record {
                before: Some(before),
                after: None,
                by: Some(Op::Release(owner)),
                ..
            } if before.owner == *owner => {
                self.given_back.insert(owner.as_str().into());
            }
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
        self.env.at += self.env.plan.timing.liveness_ttl * 2;
        self.store.advance(self.env.at);
        let view = View {
            at: self.env.at,
            healed: true,
            processes: &self.processes,
            store: &*self.store,
            keys: &self.env.keys,
            facts: &[],
        };
        self.invariants
            .iter_mut()
            .try_for_each(|invariant| invariant.at_end(&view))
    }
}
