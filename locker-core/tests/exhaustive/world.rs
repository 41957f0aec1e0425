//! The two processes, the store and what is between them; what can happen next, and what must hold
//! then.

use crate::ask::{Ask, Said, now};
use crate::process::{Process, Short, key, timing};
use locker_core::backend::{Backend, Claimed, Liveness};
use locker_core::memory::Memory;
use locker_core::{Clock, Instant, ManualClock, OwnerHash, StoreTime, Token};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// How far the clock of the processes goes at once.
const TICK: Duration = Duration::from_millis(250);
/// How far the store's goes meanwhile: as much faster as A1 allows, here five in a hundred.
const STORES_TICK: Duration = Duration::from_micros(262_500);
/// How far a server may be ahead of the one whose place it takes (A3): not quite the hard margin.
const AHEAD: Duration = Duration::from_millis(49);

/// What can happen in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct Scenario {
    /// How often the clock goes on.
    pub(crate) ticks: u8,
    /// Whether it begins when both live and the first one holds the lock, or before anything.
    pub(crate) born: bool,
    /// Which process has the bad network: its requests are served at any moment, or after it gave
    /// them up, or never; and so with the answers. The other's are served and answered within a
    /// tick, in any order.
    pub(crate) adverse: usize,
    /// Whether the first process may be killed.
    pub(crate) crash: bool,
    /// Whether the first holder may give the lock back.
    pub(crate) gives_back: bool,
    /// Whether another server may take the store's place, once.
    pub(crate) fails_over: bool,
    pub(crate) short: Short,
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The store takes the n-th request; where the network is good, its answer arrives.
    Serve(usize),
    /// The n-th answer arrives.
    Deliver(usize),
    /// What was given up last is executed after all.
    Haunt,
    /// Nothing but time passes.
    Tick,
    Crash,
    GiveBack,
    FailOver,
}

/// A request under way, or its answer.
#[derive(Debug)]
struct Flight {
    from: usize,
    ask: Ask,
    sent: Instant,
    said: Option<Said>,
}

pub(crate) struct World {
    scenario: Scenario,
    clock: Arc<ManualClock>,
    stores_clock: Arc<ManualClock>,
    store: Memory,
    processes: Vec<Process>,
    flights: Vec<Flight>,
    /// What was given up last, and is still somewhere. What was given up before it got lost.
    ghost: Option<(usize, Ask)>,
    ticks: u8,
    gave_back: bool,
    failed_over: bool,
    last_token: Option<Token>,
    last_owner: Option<OwnerHash>,
    grants: u32,
}

impl World {
    pub(crate) fn begin(scenario: Scenario) -> Self {
        let clock = Arc::new(ManualClock::new());
        let stores_clock = Arc::new(ManualClock::new());
        let at = clock.now();
        let mut world = Self {
            scenario,
            store: Memory::new(stores_clock.clone()),
            clock,
            stores_clock,
            processes: (0..2)
                .map(|place| Process::begin(at, place, timing(scenario.short)))
                .collect(),
            flights: Vec::new(),
            ghost: None,
            ticks: 0,
            gave_back: false,
            failed_over: false,
            last_token: None,
            last_owner: None,
            grants: 0,
        };
        world.collect();
        if scenario.born {
            for _ in 0..2 {
                let flight = world.flights.remove(0);
                world
                    .serve(flight.from, &flight.ask, true)
                    .expect("a birth");
            }
            let told = world.store_time();
            world.processes[0].want(at, told);
            world.collect();
            let claim = world.flights.remove(0);
            world.serve(claim.from, &claim.ask, true).expect("a grant");
            assert!(world.processes[0].holds(), "the first one holds the lock");
            world.want();
        }
        world
    }

    /// How often the lock was granted to another owner.
    pub(crate) fn grants(&self) -> u32 {
        self.grants
    }

    pub(crate) fn has_lost(&self) -> bool {
        let mut processes = self.processes.iter();
        processes.any(|it| it.was_lost && it.tenure.as_ref().is_some_and(|t| t.loss().is_some()))
    }

    pub(crate) fn choices(&self) -> Vec<Choice> {
        let mut all = Vec::new();
        let mut urgent = false;
        for (number, flight) in self.flights.iter().enumerate() {
            urgent |= flight.from != self.scenario.adverse;
            all.push(match flight.said {
                None => Choice::Serve(number),
                Some(_) => Choice::Deliver(number),
            });
        }
        if self.ghost.is_some() {
            all.push(Choice::Haunt);
        }
        if self.ticks == self.scenario.ticks {
            return all;
        }
        if !urgent {
            all.push(Choice::Tick);
        }
        if self.scenario.crash && self.processes[0].up {
            all.push(Choice::Crash);
        }
        if self.scenario.gives_back && !self.gave_back && self.processes[0].holds() {
            all.push(Choice::GiveBack);
        }
        if self.scenario.fails_over && !self.failed_over {
            all.push(Choice::FailOver);
        }
        all
    }

    pub(crate) fn choose(&mut self, choice: Choice) -> Result<(), String> {
        let at = self.clock.now();
        match choice {
            Choice::Serve(number) if self.flights[number].from == self.scenario.adverse => {
                let (from, ask) = (self.flights[number].from, self.flights[number].ask.clone());
                let said = self.serve(from, &ask, false)?;
                self.flights[number].said = said;
            }
            Choice::Serve(number) => {
                let flight = self.flights.remove(number);
                self.serve(flight.from, &flight.ask, true)?;
            }
            Choice::Deliver(number) => {
                let flight = self.flights.remove(number);
                let said = flight.said.expect("it was served");
                self.processes[flight.from].told(at, said);
            }
            Choice::Haunt => {
                let (from, ask) = self.ghost.take().expect("there is one");
                self.serve(from, &ask, false)?;
            }
            Choice::Tick => {
                self.ticks += 1;
                self.clock.advance(TICK);
                self.stores_clock.advance(STORES_TICK);
                self.give_up(timing(self.scenario.short).request_timeout, true);
                let at = self.clock.now();
                for process in &mut self.processes {
                    process.wake(at);
                }
                self.want();
            }
            Choice::Crash => {
                self.processes[0].up = false;
                self.flights
                    .retain(|flight| flight.from != 0 || flight.said.is_none());
                while let Some(number) = self.flights.iter().position(|it| it.from == 0) {
                    let flight = self.flights.remove(number);
                    self.haunt(flight);
                }
            }
            Choice::GiveBack => {
                self.gave_back = true;
                self.processes[0].give_back(at);
            }
            Choice::FailOver => {
                self.failed_over = true;
                self.stores_clock.advance(AHEAD);
                self.ghost = None;
                self.give_up(Duration::ZERO, false);
            }
        }
        self.collect();
        self.check()
    }

    /// Who has waited for too long gives up; what it has asked may still land.
    fn give_up(&mut self, after: Duration, may_land: bool) {
        let at = self.clock.now();
        let is_old = |flight: &Flight| at.since(flight.sent) >= after;
        while let Some(number) = self.flights.iter().position(is_old) {
            let flight = self.flights.remove(number);
            let (from, said) = (flight.from, flight.ask.unanswered());
            if may_land && flight.said.is_none() {
                self.haunt(flight);
            }
            self.processes[from].told(at, said);
        }
    }

    fn haunt(&mut self, flight: Flight) {
        if flight.ask.writes() {
            self.ghost = Some((flight.from, flight.ask));
        }
    }

    fn want(&mut self) {
        let (at, told) = (self.clock.now(), self.store_time());
        for process in &mut self.processes {
            process.want(at, told);
        }
        self.collect();
    }

    fn collect(&mut self) {
        let sent = self.clock.now();
        for (from, process) in self.processes.iter_mut().enumerate() {
            let flights = process.asks.drain(..).map(|ask| Flight {
                from,
                ask,
                sent,
                said: None,
            });
            self.flights.extend(flights);
        }
    }

    fn store_time(&self) -> StoreTime {
        StoreTime::from_micros(self.stores_clock.now().as_nanos() / 1000)
    }

    /// The store takes a request; if it is answered at once, its sender hears it.
    fn serve(&mut self, from: usize, ask: &Ask, at_once: bool) -> Result<Option<Said>, String> {
        let before = self.holder();
        let timing = timing(self.scenario.short);
        let said = ask.serve(&self.store, timing.liveness_ttl, timing.lock_ttl);
        let after = self.holder();
        self.judge(ask, &said, before.as_ref(), after.as_ref())?;
        if at_once {
            let at = self.clock.now();
            self.processes[from].told(at, said);
            self.collect();
            return Ok(None);
        }
        Ok(Some(said))
    }

    fn holder(&self) -> Option<(OwnerHash, bool, Token)> {
        let held = now(self.store.read_lock(&key())).ok()?.value?;
        let alive = matches!(held.holder, Some(Liveness::Alive(_)));
        Some((held.data.owner, alive, held.data.token))
    }

    /// S2, S3 and S4, at the store.
    fn judge(
        &mut self,
        ask: &Ask,
        said: &Said,
        before: Option<&(OwnerHash, bool, Token)>,
        after: Option<&(OwnerHash, bool, Token)>,
    ) -> Result<(), String> {
        let owner = |holder: Option<&(OwnerHash, bool, Token)>| holder.map(|it| it.0.clone());
        if let Some(scope) = ask.scope() {
            let others = owner(before).filter(|before| before != scope);
            if others != owner(after).filter(|after| after != scope) {
                return Err(format!("S4: {ask:?} touched another's record"));
            }
        }
        let (Some((owner, _, token)), Said::Claimed(Ok(reply))) = (after, said) else {
            return Ok(());
        };
        if before.is_some_and(|(old, alive, _)| old != owner && *alive) {
            return Err(format!("S3: {owner} robbed a living process"));
        }
        let is_new = before.is_none_or(|(old, ..)| old != owner);
        if is_new && matches!(reply.value, Claimed::Granted(_)) {
            if self.last_token.is_some_and(|last| last >= *token) {
                return Err(format!("S2: {owner} got {token}"));
            }
            self.last_token = Some(*token);
            self.grants += u32::from(self.last_owner.as_ref() != Some(owner));
            self.last_owner = Some(owner.clone());
        }
        Ok(())
    }

    /// S1 and S5, at the guards.
    fn check(&mut self) -> Result<(), String> {
        let at = self.clock.now();
        let mut valid = 0;
        for process in self.processes.iter_mut().filter(|process| process.up) {
            let Some(tenure) = &process.tenure else {
                continue;
            };
            let is_valid = tenure.valid_until().is_some_and(|until| at < until);
            if is_valid && process.was_lost {
                return Err("S5: lost, and valid again".to_owned());
            }
            process.was_lost |= !is_valid;
            valid += usize::from(is_valid);
        }
        if valid > 1 {
            return Err("S1: two guards are valid".to_owned());
        }
        Ok(())
    }

    /// What makes this state the one that it is.
    pub(crate) fn digest(&self) -> u64 {
        struct Digest(DefaultHasher);
        impl std::fmt::Write for Digest {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        let mut digest = Digest(DefaultHasher::new());
        let _ = write!(
            digest,
            "{:?} {:?} {:?} {:?} {:?} {:?} {} {}",
            self.clock.now(),
            self.stores_clock.now(),
            self.store,
            self.processes,
            self.flights,
            self.ghost,
            self.gave_back,
            self.failed_over,
        );
        digest.0.finish()
    }
}
