//! Every order of a small history: two processes want one lock, once each; one of them may be killed,
//! one message may get lost, one round of requests may be slow, the store may fail over once. S1 to S5 after every step.
//!
//! The simulation of `locker-testkit` draws histories from a world that is far larger; here is nothing
//! drawn, and nothing left out. Machines are moved by value and cannot be copied, so a state is reached
//! by playing its choices again from the beginning; two orders that come to the same state go on as
//! one.

use locker_core::backend::{
    Answer, Backend, BackendError, Birth, Claimed, Liveness, Renewal, Standing,
};
use locker_core::deadline::Deadline;
use locker_core::machine::acquire::{AcquireStep, Outcome, Patience};
use locker_core::machine::report::{End as ReportEnd, ReportStep};
use locker_core::machine::{Acquire, Hold, Report, Step, Tenure, acquire, hold, report};
use locker_core::memory::Memory;
use locker_core::time::StoreClock;
use locker_core::{
    Clock, Host, Instant, Key, ManualClock, OwnerHash, ProcessHash, StoreTime, Timing, Token,
};
use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A TTL of a second; two reports fit into it.
fn timing() -> Timing {
    Timing {
        liveness_ttl: Duration::from_secs(1),
        report_every: Duration::from_millis(500),
        lock_ttl: Duration::from_secs(2),
        extend_every: Duration::from_millis(900),
        recheck_every: Duration::from_millis(600),
        request_timeout: Duration::from_millis(200),
        retry_after: Duration::from_millis(250),
        drift_permille: 50,
        stop_budget: Duration::from_millis(100),
        hard_margin: Duration::from_millis(50),
        start_timeout: Duration::from_secs(1),
    }
}

/// How far the clock goes at once, and how often.
const TICK: Duration = Duration::from_millis(250);
const TICKS: u8 = 7;

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The store takes the n-th request, and its answer arrives.
    Serve(usize),
    /// The store takes it, and its answer gets lost.
    LoseAnswer(usize),
    /// It gets lost on the way.
    LoseRequest(usize),
    /// It is executed now, long after its sender has given up.
    ServeLate(usize),
    /// Nothing but time passes.
    Tick,
    /// The first process is killed.
    Crash,
    /// Another server takes over: what is under way is lost, and its clock is ahead by almost the
    /// hard margin (A3).
    FailOver,
}

/// What is asked.
#[derive(Debug, Clone)]
enum Ask {
    Report(report::Request),
    Acquire(acquire::Request),
    Hold(hold::Request),
}

/// A request under way.
#[derive(Debug)]
struct Flight {
    from: usize,
    ask: Ask,
    sent: Instant,
    /// Whether its sender has given up, and it may still land.
    given_up: bool,
}

#[derive(Debug)]
enum Doing {
    Waiting,
    Asking(Option<Acquire>, Option<Instant>),
    Holding(Option<Hold>, Option<Instant>, Arc<Tenure>),
    Over,
}

#[derive(Debug)]
struct Process {
    up: bool,
    name: ProcessHash,
    report: Option<Report>,
    report_due: Option<Instant>,
    life: Option<Arc<Deadline>>,
    doing: Doing,
    was_lost: bool,
}

/// One state.
struct World {
    clock: Arc<ManualClock>,
    store: Memory,
    processes: Vec<Process>,
    flights: Vec<Flight>,
    ticks: u8,
    crashed: bool,
    slow: bool,
    lost: bool,
    failed_over: bool,
    last_token: Option<Token>,
}

fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the memory store never waits"),
    }
}

fn key() -> Key {
    Key::new("k").expect("a key")
}

impl World {
    fn begin() -> Self {
        let clock = Arc::new(ManualClock::new());
        let mut world = Self {
            store: Memory::new(clock.clone()),
            clock,
            processes: Vec::new(),
            flights: Vec::new(),
            ticks: 0,
            crashed: false,
            slow: false,
            lost: false,
            failed_over: false,
            last_token: None,
        };
        for place in 0..2 {
            let host = Host::new("h").expect("a host");
            let name = ProcessHash::new(&host, 1, place as u128);
            world.processes.push(Process {
                up: true,
                name: name.clone(),
                report: None,
                report_due: None,
                life: None,
                doing: Doing::Waiting,
                was_lost: false,
            });
            let step = Report::begin(world.clock.now(), name, timing(), 1);
            world.on_report(place, step);
        }
        world
    }

    fn at(choices: &[Choice]) -> Result<Self, String> {
        let mut world = Self::begin();
        for choice in choices {
            world.choose(*choice)?;
        }
        Ok(world)
    }

    /// Everything that may happen next.
    fn choices(&self) -> Vec<Choice> {
        let mut all = Vec::new();
        for (number, flight) in self.flights.iter().enumerate() {
            if flight.given_up {
                all.push(Choice::ServeLate(number));
                continue;
            }
            all.push(Choice::Serve(number));
            if !self.lost {
                all.push(Choice::LoseAnswer(number));
                all.push(Choice::LoseRequest(number));
            }
        }
        // What is not lost is served within its tick; but once, everything may be slow.
        let waits = self.flights.iter().any(|flight| !flight.given_up);
        if self.ticks < TICKS {
            if !waits || !self.slow {
                all.push(Choice::Tick);
            }
            if !self.crashed {
                all.push(Choice::Crash);
            }
            if !self.failed_over {
                all.push(Choice::FailOver);
            }
        }
        all
    }

    fn choose(&mut self, choice: Choice) -> Result<(), String> {
        match choice {
            Choice::Serve(number) => {
                let flight = self.flights.remove(number);
                self.serve(flight, true)?;
            }
            Choice::ServeLate(number) => {
                let flight = self.flights.remove(number);
                self.serve(flight, false)?;
            }
            Choice::LoseAnswer(number) => {
                self.lost = true;
                let flight = self.flights.remove(number);
                let (from, ask, sent) = (flight.from, flight.ask.clone(), flight.sent);
                self.serve(flight, false)?;
                self.time_out(from, &ask, sent);
            }
            Choice::LoseRequest(number) => {
                self.lost = true;
                let flight = &mut self.flights[number];
                flight.given_up = true;
                let (from, ask, sent) = (flight.from, flight.ask.clone(), flight.sent);
                self.time_out(from, &ask, sent);
            }
            Choice::Tick => {
                self.slow |= self.flights.iter().any(|flight| !flight.given_up);
                self.ticks += 1;
                self.clock.advance(TICK);
                self.give_up_old();
                self.wake();
            }
            Choice::Crash => {
                self.crashed = true;
                self.processes[0].up = false;
                // What it has sent may still land.
                for flight in &mut self.flights {
                    flight.given_up |= flight.from == 0;
                }
            }
            Choice::FailOver => {
                self.failed_over = true;
                self.clock.advance(Duration::from_millis(49));
                for flight in std::mem::take(&mut self.flights) {
                    if !flight.given_up {
                        self.time_out(flight.from, &flight.ask, flight.sent);
                    }
                }
            }
        }
        self.check()
    }

    /// Who has waited for longer than a request may take gives up.
    fn give_up_old(&mut self) {
        let at = self.clock.now();
        let old: Vec<_> = (0..self.flights.len())
            .filter(|number| {
                let flight = &self.flights[*number];
                !flight.given_up && at.since(flight.sent) >= timing().request_timeout * 2
            })
            .collect();
        for number in old {
            self.flights[number].given_up = true;
            let flight = &self.flights[number];
            let (from, ask, sent) = (flight.from, flight.ask.clone(), flight.sent);
            self.time_out(from, &ask, sent);
        }
    }

    fn wake(&mut self) {
        let at = self.clock.now();
        for place in 0..self.processes.len() {
            let process = &mut self.processes[place];
            if !process.up {
                continue;
            }
            if process.report_due.is_some_and(|due| due <= at)
                && let Some(machine) = process.report.take()
            {
                process.report_due = None;
                let step = machine.on_wake(at);
                self.on_report(place, step);
            }
            let process = &mut self.processes[place];
            match &mut process.doing {
                Doing::Waiting => self.begin_asking(place),
                Doing::Asking(machine, due) if due.is_some_and(|due| due <= at) => {
                    if let Some(machine) = machine.take() {
                        let step = machine.on_wake(at);
                        self.on_acquire(place, step);
                    }
                }
                Doing::Holding(machine, due, _) if due.is_some_and(|due| due <= at) => {
                    if let Some(machine) = machine.take() {
                        let step = machine.on_wake(at);
                        self.on_hold(place, step);
                    }
                }
                _ => {}
            }
        }
    }

    fn begin_asking(&mut self, place: usize) {
        let at = self.clock.now();
        let process = &self.processes[place];
        if !process.life.as_ref().is_some_and(|life| life.is_valid(at)) {
            return;
        }
        let owner = OwnerHash::new(&key(), &process.name, 1, None);
        let patience = Patience {
            wait_until: Some(Instant::FAR_FUTURE),
            ask_until: at + Duration::from_secs(1),
            poll_every: Duration::from_millis(500),
            cheap_death_poll: None,
        };
        let mut clock = StoreClock::default();
        let told = StoreTime::from_micros(at.as_nanos() / 1000);
        clock.observe(at, told, Duration::MAX);
        let step = Acquire::begin(at, owner, timing(), patience, clock, 1);
        self.on_acquire(place, step);
    }

    fn send(&mut self, from: usize, ask: Ask) {
        self.flights.push(Flight {
            from,
            ask,
            sent: self.clock.now(),
            given_up: false,
        });
    }

    fn on_report(&mut self, place: usize, step: ReportStep) {
        match step {
            Step::Call(machine, request) => {
                self.processes[place].report = Some(machine);
                self.send(place, Ask::Report(request));
            }
            Step::Sleep(machine, until) => {
                let process = &mut self.processes[place];
                process.life = machine.deadline().cloned();
                process.report = Some(machine);
                process.report_due = Some(until);
            }
            // This history has one incarnation for each process.
            Step::Done(ReportEnd::Stillborn(_) | ReportEnd::Lapsed | ReportEnd::Gone) => {}
            Step::Done(ReportEnd::Retired) => unreachable!("nobody retires"),
        }
    }

    fn on_acquire(&mut self, place: usize, step: AcquireStep) {
        let at = self.clock.now();
        match step {
            Step::Call(machine, request) => {
                self.processes[place].doing = Doing::Asking(Some(machine), None);
                self.send(place, Ask::Acquire(request));
            }
            Step::Sleep(machine, until) => {
                self.processes[place].doing = Doing::Asking(Some(machine), Some(until));
            }
            Step::Done(end) => {
                self.processes[place].doing = Doing::Over;
                let Outcome::Granted { sent, .. } = end.outcome else {
                    return;
                };
                let process = &self.processes[place];
                let Some(life) = process.life.clone() else {
                    return;
                };
                let owner = OwnerHash::new(&key(), &process.name, 1, None);
                let until = timing().valid_until(sent, timing().lock_ttl);
                let budget = timing().stop_budget;
                let tenure = Arc::new(Tenure::new(owner, at, until, life, None, budget));
                if tenure.judge(at).is_ok() {
                    let origin = Instant::ZERO;
                    let step = Hold::begin(at, Arc::clone(&tenure), timing(), origin);
                    self.processes[place].doing = Doing::Holding(None, None, tenure);
                    self.on_hold(place, step);
                }
            }
        }
    }

    fn on_hold(
        &mut self,
        place: usize,
        step: Step<Hold, hold::Request, locker_core::machine::Loss>,
    ) {
        let Doing::Holding(machine, due, _) = &mut self.processes[place].doing else {
            return;
        };
        match step {
            Step::Call(hold, request) => {
                (*machine, *due) = (Some(hold), None);
                self.send(place, Ask::Hold(request));
            }
            Step::Sleep(hold, until) => (*machine, *due) = (Some(hold), Some(until)),
            Step::Done(_) => (*machine, *due) = (None, None),
        }
    }

    fn time_out(&mut self, from: usize, ask: &Ask, _sent: Instant) {
        fn timeout<T>() -> Answer<T> {
            Err(BackendError::timeout())
        }
        match ask {
            Ask::Report(report::Request::Create(_)) => self.tell_birth(from, timeout()),
            Ask::Report(report::Request::Renew(_)) => self.tell_renewal(from, timeout()),
            Ask::Report(report::Request::Retire(_)) => {}
            Ask::Acquire(request) => {
                let request = request.clone();
                self.tell_acquire(from, &request, &Said::Nothing);
            }
            Ask::Hold(_) => self.tell_standing(from, Err(BackendError::timeout())),
        }
    }

    /// The store takes a request; its sender hears of it, or not.
    fn serve(&mut self, flight: Flight, heard: bool) -> Result<(), String> {
        let before = self.holder();
        let heard = heard && self.processes[flight.from].up;
        match &flight.ask {
            Ask::Report(report::Request::Create(name)) => {
                let answer = now(self.store.create_process(name, timing().liveness_ttl));
                if heard {
                    self.tell_birth(flight.from, answer);
                }
            }
            Ask::Report(report::Request::Renew(name)) => {
                let answer = now(self.store.renew_process(name, timing().liveness_ttl));
                if heard {
                    self.tell_renewal(flight.from, answer);
                }
            }
            Ask::Report(report::Request::Retire(_)) => {}
            Ask::Acquire(request) => {
                let said = match request {
                    acquire::Request::TryCreate(claim) => {
                        Said::Claimed(now(self.store.try_create(claim)))
                    }
                    acquire::Request::TakeOver(claim, observed) => {
                        Said::Claimed(now(self.store.take_over(claim, observed)))
                    }
                    acquire::Request::ReadProcess(name) => {
                        Said::Liveness(now(self.store.read_process(name)))
                    }
                    acquire::Request::ReadLock(key) => Said::Lock(now(self.store.read_lock(key))),
                };
                self.judge_grant(before.as_ref(), &said)?;
                if heard {
                    let request = request.clone();
                    self.tell_acquire(flight.from, &request, &said);
                }
            }
            Ask::Hold(request) => {
                let owners = match request {
                    hold::Request::Extend(owner) | hold::Request::Check(owner) => {
                        std::slice::from_ref(owner)
                    }
                };
                let answer = match request {
                    hold::Request::Extend(_) => now(self.store.extend(owners, timing().lock_ttl)),
                    hold::Request::Check(_) => now(self.store.check(owners)),
                };
                let after = self.holder();
                let same = before.as_ref().map(|it| &it.0) == after.as_ref().map(|it| &it.0);
                if !same {
                    return Err("S4: an extension changed the owner".to_owned());
                }
                if heard {
                    let standing = answer.and_then(|mut reply| reply.value.remove(0));
                    self.tell_standing(flight.from, standing);
                }
            }
        }
        Ok(())
    }

    fn holder(&self) -> Option<(OwnerHash, bool, Token)> {
        let held = now(self.store.read_lock(&key())).ok()?.value?;
        let alive = matches!(held.holder, Some(Liveness::Alive(_)));
        Some((held.data.owner, alive, held.data.token))
    }

    /// S2 and S3, at the moment of a grant.
    fn judge_grant(
        &mut self,
        before: Option<&(OwnerHash, bool, Token)>,
        said: &Said,
    ) -> Result<(), String> {
        let after = self.holder();
        let (Some((owner, _, token)), Said::Claimed(Ok(_))) = (&after, said) else {
            return Ok(());
        };
        if before.is_some_and(|(old, alive, _)| old != owner && *alive) {
            return Err(format!("S3: {owner} robbed a living process"));
        }
        if before.is_none_or(|(old, ..)| old != owner) {
            if self.last_token.is_some_and(|last| last >= *token) {
                return Err(format!("S2: {owner} got {token}"));
            }
            self.last_token = Some(*token);
        }
        Ok(())
    }

    fn tell_birth(&mut self, place: usize, answer: Answer<Birth>) {
        let at = self.clock.now();
        if self.processes[place].up
            && let Some(machine) = self.processes[place].report.take()
        {
            let step = machine.on_birth(at, answer);
            self.on_report(place, step);
        }
    }

    fn tell_renewal(&mut self, place: usize, answer: Answer<Renewal>) {
        let at = self.clock.now();
        if self.processes[place].up
            && let Some(machine) = self.processes[place].report.take()
        {
            let step = machine.on_renewal(at, answer);
            self.on_report(place, step);
        }
    }

    fn tell_acquire(&mut self, place: usize, request: &acquire::Request, said: &Said) {
        let at = self.clock.now();
        let process = &mut self.processes[place];
        let Doing::Asking(machine, _) = &mut process.doing else {
            return;
        };
        let Some(machine) = machine.take().filter(|_| process.up) else {
            return;
        };
        let step = match (request, said) {
            (_, Said::Claimed(answer)) => machine.on_claimed(at, again(answer)),
            (_, Said::Liveness(answer)) => machine.on_liveness(at, again(answer)),
            (_, Said::Lock(answer)) => machine.on_lock(at, again(answer)),
            (acquire::Request::ReadProcess(_), Said::Nothing) => {
                machine.on_liveness(at, Err(BackendError::timeout()))
            }
            (acquire::Request::ReadLock(_), Said::Nothing) => {
                machine.on_lock(at, Err(BackendError::timeout()))
            }
            (_, Said::Nothing) => machine.on_claimed(at, Err(BackendError::timeout())),
        };
        self.on_acquire(place, step);
    }

    fn tell_standing(&mut self, place: usize, standing: Result<Standing, BackendError>) {
        let at = self.clock.now();
        let Doing::Holding(machine, ..) = &mut self.processes[place].doing else {
            return;
        };
        if let Some(machine) = machine.take().filter(|_| self.processes[place].up) {
            let step = machine.on_standing(at, standing);
            self.on_hold(place, step);
        }
    }

    /// S1 and S5, after every step.
    fn check(&mut self) -> Result<(), String> {
        let at = self.clock.now();
        let mut valid = 0;
        for process in self.processes.iter_mut().filter(|process| process.up) {
            let Doing::Holding(_, _, tenure) = &process.doing else {
                continue;
            };
            let is_valid = tenure.valid_until().is_some_and(|until| at < until);
            if is_valid && process.was_lost && tenure.loss().is_none() {
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
    fn digest(&self) -> u64 {
        let mut text = String::new();
        let _ = write!(
            text,
            "{:?} {:?} {:?} {:?} {} {} {} {} {}",
            self.clock.now(),
            self.store,
            self.processes,
            self.flights,
            self.ticks,
            self.crashed,
            self.slow,
            self.lost,
            self.failed_over
        );
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    }
}

/// What the store said.
#[derive(Debug)]
enum Said {
    Nothing,
    Claimed(Answer<Claimed>),
    Liveness(Answer<Liveness>),
    Lock(Answer<Option<locker_core::backend::Held>>),
}

/// The memory store always answers.
fn again<T: Clone>(answer: &Answer<T>) -> Answer<T> {
    match answer {
        Ok(reply) => Ok(reply.clone()),
        Err(error) => Err(BackendError::new(error.kind(), error.effect(), "")),
    }
}

#[test]
fn no_order_of_a_crash_a_lost_message_and_a_fail_over_breaks_a_promise() {
    let began = std::time::Instant::now();
    let mut seen = HashSet::new();
    let mut queue = VecDeque::from([Vec::new()]);
    let (mut grants, mut deepest) = (0_u64, 0);
    while let Some(path) = queue.pop_front() {
        let world = World::at(&path).unwrap_or_else(|why| panic!("{why} after {path:?}"));
        if !seen.insert(world.digest()) {
            continue;
        }
        if seen.len() % 2000 == 0 {
            println!(
                "{} {} {:?} {}",
                seen.len(),
                path.len(),
                began.elapsed(),
                queue.len()
            );
        }
        deepest = deepest.max(path.len());
        let holding = |it: &Process| matches!(it.doing, Doing::Holding(..));
        grants += u64::from(world.processes.iter().all(holding));
        for choice in world.choices() {
            let mut next = path.clone();
            next.push(choice);
            queue.push_back(next);
        }
    }
    let states = seen.len();
    println!(
        "{states} states, the deepest after {deepest} steps, {:?}",
        began.elapsed()
    );
    assert!(states > 10_000, "{states} states are not all");
    assert!(
        grants > 100,
        "both have held the lock in {grants} states only"
    );
}
