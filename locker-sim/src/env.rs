//! Everything around the processes: time, chance, the network, and the log.

use super::agenda::{Agenda, Call, Event, Knock, Part};
use super::fault::Fault;
use super::history::History;
use super::invariants::Fact;
use super::marks::Watcher;
use super::network;
use super::op::{Answer, Op, Ticket};
use super::plan::{Plan, Weather};
use super::rng::Rng;
use locker_core::{BackendError, Effect, ErrorKind, Instant, Key, ProcessHash};
use std::time::Duration;

/// Everything around the processes.
#[derive(Debug)]
pub struct Env {
    /// The true time.
    pub at: Duration,
    /// The one source of chance.
    pub rng: Rng,
    /// What will happen.
    pub agenda: Agenda,
    /// What has happened.
    pub log: History,
    /// What the seed has decided.
    pub plan: Plan,
    /// The keys.
    pub keys: Vec<Key>,
    /// What happened in this event that an invariant may want to know.
    pub facts: Vec<Fact>,
    /// Every request that was ever sent.
    pub flights: Vec<Flight>,
    /// Whether the faults have ended.
    pub healed: bool,
    /// When an assumption broke, if one did.
    pub breach: Option<Duration>,
    /// The incarnation that was cloned, if one was.
    pub cloned: Option<ProcessHash>,
    /// What is worth noting.
    pub marks: Watcher,
    /// Incarnations that the kernel has just ended.
    pub kernel: Vec<ProcessHash>,
}

/// A request under way, and its answer.
#[derive(Debug)]
pub struct Flight {
    /// Who sent it.
    pub process: usize,
    /// In which of its lives.
    pub boot: u32,
    /// Which part of it waits for the answer.
    pub part: Part,
    /// What is asked.
    pub op: Op,
    /// When, in true time.
    pub sent: Duration,
    /// When the store answered it.
    pub answered: Option<Duration>,
    /// The answer, between the store and its receiver.
    pub answer: Option<Answer>,
    /// Whether the sender has got an answer, or has given up.
    pub over: bool,
    /// Whether no answer of it may come back, or one is on its way already: whoever doubles a
    /// request hears the answer to the first copy, or none.
    pub mute: bool,
    /// Whether a copy of it was sent as well.
    pub doubled: bool,
}

impl Env {
    /// The weather of this moment.
    pub fn weather(&self) -> Weather {
        if self.healed {
            Weather::default()
        } else {
            self.plan.weather
        }
    }

    /// Whether something bad happens now, this often in a thousand while there are faults.
    pub fn strikes(&mut self, permille: u32) -> bool {
        !self.healed && !self.plan.stall_only && self.rng.chance(permille)
    }

    /// Notes a line about a process.
    pub fn note(&mut self, process: usize, what: std::fmt::Arguments<'_>) {
        self.log.note(self.at, format_args!("p{process}"), what);
    }

    /// Sends a request of a process. The sender gives up at the true moment `gives_up`.
    pub fn send(&mut self, from: (usize, u32), part: Part, op: Op, gives_up: Duration) -> Ticket {
        let (process, boot) = from;
        let ticket = Ticket(self.flights.len());
        let weather = self.weather();
        let log = &mut self.log;
        let fate = network::request(
            &self.plan,
            weather,
            &mut self.rng,
            &mut |fault| log.fault(fault),
            self.at,
            process,
        );
        self.note(process, format_args!("{part:?} asks #{}: {op}", ticket.0));
        self.marks.on_sent(&op);
        self.facts.push(Fact::Sent {
            process,
            boot,
            part,
        });
        let mute = fate.again.is_some() && !network::may_repeat_after_its_answer(&op);
        self.flights.push(Flight {
            process,
            boot,
            part,
            op,
            sent: self.at,
            answered: None,
            answer: None,
            over: false,
            mute,
            doubled: fate.again.is_some(),
        });
        if fate.refused {
            let error = BackendError::new(
                ErrorKind::Unavailable,
                Effect::NotApplied,
                "the connection was refused",
            );
            self.flights[ticket.0].answer = Some(Err(error));
            let soon = self.at + network::short(&mut self.rng);
            self.knock(soon, from, Call::Reply(ticket));
        }
        for arrives in [fate.arrives, fate.again].into_iter().flatten() {
            self.agenda.add(arrives, Event::Arrival(ticket));
        }
        self.knock(gives_up, from, Call::Timeout(ticket));
        ticket
    }

    /// Sends an answer of the store back.
    pub fn send_back(&mut self, ticket: Ticket, answer: Answer) {
        let weather = self.weather();
        let flight = &mut self.flights[ticket.0];
        // One of two copies cannot say for both that nothing happened.
        let answer = if flight.doubled {
            answer.map_err(|it| BackendError::new(it.kind(), Effect::Unknown, it.to_string()))
        } else {
            answer
        };
        if flight.over || std::mem::replace(&mut flight.mute, true) {
            return;
        }
        flight.answered = Some(self.at);
        let from = (flight.process, flight.boot);
        let arrives = network::reply(
            &self.plan,
            weather,
            &mut self.rng,
            &mut self.log.faults,
            self.at,
            from.0,
        );
        let Some(arrives) = arrives else { return };
        self.flights[ticket.0].answer = Some(answer);
        self.knock(arrives, from, Call::Reply(ticket));
        if self.strikes(weather.doubled) {
            self.log.fault(Fault::ReplyDoubled);
            let again = arrives + network::short(&mut self.rng);
            self.knock(again, from, Call::Reply(ticket));
        }
    }

    /// Lets something reach a process.
    pub fn knock(&mut self, at: Duration, to: (usize, u32), call: Call) {
        self.knock_due(at, to, call, None);
    }

    /// Lets an alarm ring in a process, which shall ring when its clock shows this.
    pub fn knock_due(&mut self, at: Duration, to: (usize, u32), call: Call, due: Option<Instant>) {
        let (process, boot) = to;
        self.agenda.add(
            at,
            Event::Process(Knock {
                process,
                boot,
                call,
                read: None,
                due,
            }),
        );
    }

    /// Breaks the connections of a process: everything that it waits for fails at once, and is
    /// executed all the same if it has left.
    pub fn reset(&mut self, process: usize, boot: u32) {
        let recent = self.flights.len().saturating_sub(64);
        for number in recent..self.flights.len() {
            let flight = &mut self.flights[number];
            if flight.process == process && flight.boot == boot && !flight.over && !flight.mute {
                flight.mute = true;
                flight.answer = Some(Err(BackendError::new(
                    ErrorKind::Unavailable,
                    Effect::Unknown,
                    "the connection was reset",
                )));
                let soon = self.at + network::short(&mut self.rng);
                self.knock(soon, (process, boot), Call::Reply(Ticket(number)));
            }
        }
    }

    /// Takes the answer for its sender, if it still waits: what arrived, or the end of patience.
    pub fn take_answer(&mut self, ticket: Ticket, timeout: bool) -> Option<Answer> {
        let flight = &mut self.flights[ticket.0];
        if flight.over {
            return None;
        }
        flight.over = true;
        let arrived = flight.answer.take();
        if timeout || matches!(&arrived, Some(Err(error)) if error.effect() == Effect::Unknown) {
            self.marks.on_silence(&flight.op);
        }
        if timeout {
            return Some(Err(BackendError::timeout()));
        }
        arrived
    }
}
