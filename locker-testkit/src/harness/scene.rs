//! What a case holds: the workers, the store, and what it has found out so far.

use super::deployment::{Data, Site};
use super::event::{Event, Record};
use super::fleet::Fleet;
use super::namespace::Namespace;
use super::network::{Network, Weather};
use super::order::{Order, Trouble};
use super::rng::Rng;
use super::times::{Times, as_micros, micros};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// The keys of a case.
pub const KEYS: usize = 2;
/// The worker processes of a case.
pub const WORKERS: usize = 4;

/// A case while it runs.
#[derive(Debug)]
pub struct Scene {
    /// The workers.
    pub fleet: Fleet,
    /// The store.
    pub site: Box<dyn Site>,
    /// The machines of its workers, in the cases in which each has its own.
    pub namespaces: Vec<Namespace>,
    /// Where its files are.
    pub folder: PathBuf,
    /// The program that becomes a worker or a hog.
    pub program: PathBuf,
    /// Scaled times.
    pub times: Times,
    /// How soon a killed owner must be replaced.
    pub killed_is_taken_over: Duration,
    /// Choices, repeated by the seed.
    pub rng: Rng,
    /// Whether there is time for the long form.
    pub full: bool,
    /// What was found out.
    pub findings: Findings,
}

/// What a case has found out.
#[derive(Debug, Default)]
pub struct Findings {
    /// Times and counts, with their limits.
    pub measures: Vec<Measure>,
    /// Times that were longer than promised.
    pub exceeded: Vec<Exceeded>,
    /// What should not be.
    pub failures: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// When what was done.
    pub windows: Vec<Window>,
    /// Whose losses are expected.
    pub struck: BTreeSet<usize>,
}

/// A time that was longer than promised. It counts, unless the machine stood still meanwhile.
#[derive(Debug, Clone, Serialize)]
pub struct Exceeded {
    /// What, how long, and what was promised.
    pub text: String,
    /// When it began.
    pub from: u64,
    /// When it was over.
    pub to: u64,
    /// By how much, in microseconds.
    pub by: u64,
    /// Whose matter it was, if it was the matter of one process alone.
    pub pid: Option<u32>,
}

impl Exceeded {
    /// A lock that was lost without a reason. Its owner's reports were late for most of T; so the
    /// machine is the reason only if it has taken half of that.
    pub fn loss(text: String, at: u64, times: Times) -> Self {
        let t = as_micros(times.t);
        Self {
            text,
            from: at.saturating_sub(t),
            to: at,
            by: t / 2,
            pid: None,
        }
    }
}

/// Something measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measure {
    /// What.
    pub what: String,
    /// Every value: milliseconds, or a count.
    pub values: Vec<f64>,
    /// None may be larger.
    pub limit: Option<f64>,
    /// `ms`, or what is counted.
    pub unit: &'static str,
}

/// A fault, from when to when.
#[derive(Debug, Clone, Serialize)]
pub struct Window {
    /// Which.
    pub what: String,
    /// Its beginning, in microseconds.
    pub from: u64,
    /// Its end.
    pub to: u64,
    /// Which worker it struck; `None` for all.
    pub worker: Option<usize>,
    /// Whether its jobs themselves stood still, with their process or with their runtime: then they
    /// are told of a loss only when they go on.
    pub paused: bool,
}

/// A lock that a worker keeps until it is told to let go.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Which lock.
    pub key: usize,
    /// By which worker.
    pub place: usize,
    /// Its process.
    pub pid: u32,
    /// The grant.
    pub token: u64,
}

/// A grant that was waited for.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// When.
    pub at: u64,
    /// To which process.
    pub pid: u32,
    /// With which token.
    pub token: u64,
}

impl Scene {
    /// How often something is done whose time is promised: so often, or twenty times where there is
    /// time for it.
    pub fn repetitions(&self, short: usize) -> usize {
        if self.full { 20 } else { short }
    }

    /// Lets the workers work.
    pub fn work(&self, how_long: Duration) {
        std::thread::sleep(how_long);
    }

    /// Starts all workers, and waits until they are ready.
    pub fn start_all(&mut self, works: bool) -> Result<(), String> {
        for place in 0..self.fleet.places() {
            self.start(place, works)?;
        }
        self.fleet.ready(0..self.fleet.places())
    }

    /// Starts a worker in this place.
    pub fn start(&mut self, place: usize, works: bool) -> Result<(), String> {
        let started = self.fleet.start(place, works);
        started.map_err(|error| format!("worker {place} could not be started: {error}"))
    }

    /// Replaces a worker that has gone.
    pub fn replace(&mut self, place: usize) -> Result<(), String> {
        self.start(place, true)?;
        self.fleet.ready([place])
    }

    /// Any worker.
    pub fn any_place(&mut self) -> usize {
        self.rng.index(self.fleet.places())
    }

    /// Makes any worker keep this key.
    pub fn keep(&mut self, key: usize) -> Result<Kept, String> {
        let place = self.any_place();
        self.keep_at(place, key)
    }

    /// Makes this worker keep this key.
    pub fn keep_at(&mut self, place: usize, key: usize) -> Result<Kept, String> {
        self.keep_within(place, key, self.times.t * 10)
    }

    /// Makes this worker keep this key, if it gets it in time.
    pub fn keep_within(
        &mut self,
        place: usize,
        key: usize,
        patience: Duration,
    ) -> Result<Kept, String> {
        let from = self.fleet.log.length();
        self.fleet.tell(place, Order::Keep(key));
        self.kept_since(from, place, key, patience)
            .ok_or_else(|| format!("worker {place} did not get key {key} within {patience:?}"))
    }

    /// Makes this worker, which works on no key by itself, wait for this key and keep it.
    pub fn take_at(&mut self, place: usize, key: usize) -> Result<Kept, String> {
        let from = self.fleet.log.length();
        let patience = self.times.t * 10;
        self.fleet
            .tell(place, Order::Take(key, as_micros(patience) / 1000));
        self.kept_since(from, place, key, patience)
            .ok_or_else(|| format!("worker {place} did not get key {key} within {patience:?}"))
    }

    fn kept_since(
        &self,
        from: usize,
        place: usize,
        key: usize,
        patience: Duration,
    ) -> Option<Kept> {
        let pid = self.fleet.pid(place)?;
        self.fleet
            .log
            .wait_for(from, patience, |record| match record.event {
                Event::Grant {
                    key: of,
                    token,
                    kept: true,
                    ..
                } if of == key && record.pid == pid => Some(Kept {
                    key,
                    place,
                    pid,
                    token,
                }),
                _ => None,
            })
    }

    /// Ends a job that keeps its lock.
    pub fn let_go(&mut self, kept: Kept) {
        self.fleet.tell(kept.place, Order::LetGo(kept.key));
    }

    /// Waits for the first grant of this key after that moment, to another process.
    pub fn taken(&self, kept: Kept, after: u64, patience: Duration) -> Option<Granted> {
        let elapsed = Duration::from_micros(micros().saturating_sub(after));
        let patience = patience.saturating_sub(elapsed);
        self.granted(kept.key, after, patience, |record| record.pid != kept.pid)
    }

    /// Waits for the first grant of this key after that moment, to anybody.
    pub fn next_grant(&self, key: usize, after: u64, patience: Duration) -> Option<Granted> {
        self.granted(key, after, patience, |_| true)
    }

    fn granted(
        &self,
        of: usize,
        after: u64,
        patience: Duration,
        to: impl Fn(&Record) -> bool,
    ) -> Option<Granted> {
        self.fleet
            .log
            .wait_for(0, patience, |record| match record.event {
                Event::Grant { key, token, .. } if key == of && record.at > after && to(record) => {
                    Some(Granted {
                        at: record.at,
                        pid: record.pid,
                        token,
                    })
                }
                _ => None,
            })
    }

    /// Waits for an event of this owner.
    pub fn heard(
        &self,
        kept: Kept,
        patience: Duration,
        mut which: impl FnMut(&Event) -> bool,
    ) -> Option<Record> {
        self.fleet.log.wait_for(0, patience, |record| {
            (record.pid == kept.pid && which(&record.event)).then(|| record.clone())
        })
    }

    /// Waits until this owner is told of its loss; answers when.
    pub fn loss(&self, kept: Kept, patience: Duration) -> Option<u64> {
        let lost =
            |event: &Event| matches!(event, Event::Loss { token, .. } if *token == kept.token);
        self.heard(kept, patience, lost).map(|record| record.at)
    }

    /// Stops a worker's process for so long; `meanwhile` runs when it is stopped. Answers when.
    pub fn pause<T>(
        &mut self,
        place: usize,
        how_long: Duration,
        meanwhile: impl FnOnce(&mut Self, u64) -> T,
    ) -> (u64, u64, T) {
        let from = self.fleet.signal(place, Signal::SIGSTOP);
        let said = meanwhile(self, from);
        let over = from + as_micros(how_long);
        std::thread::sleep(Duration::from_micros(over.saturating_sub(micros())));
        let to = self.fleet.signal(place, Signal::SIGCONT);
        self.findings.windows.push(Window {
            what: "stopped".to_owned(),
            from,
            to: micros(),
            worker: Some(place),
            paused: true,
        });
        (from, to, said)
    }

    /// Changes the network between a worker and its store.
    pub fn weather(&mut self, place: usize, weather: Weather) -> Result<u64, String> {
        let at = micros();
        self.network(place)?.turns(weather);
        Ok(at)
    }

    /// The network between a worker and its store.
    pub fn network(&self, place: usize) -> Result<&Network, String> {
        let network = self.site.network(place);
        network.ok_or_else(|| format!("worker {place} has no network to its store"))
    }

    /// Restarts the servers of the store. Answers from when to when they were gone.
    pub fn restart(&mut self, down: Duration, data: Data) -> Result<(u64, u64), String> {
        let from = micros();
        let restarted = self.site.restart(down, data);
        restarted.map_err(|error| format!("the store could not be restarted: {error}"))?;
        self.watch_servers();
        self.did("the store restarts", from, None);
        Ok((from, micros()))
    }

    /// What the machine takes from the servers counts, too.
    pub(super) fn watch_servers(&self) {
        for pid in self.site.processes() {
            self.fleet.machine.includes_family(pid);
        }
    }

    /// Gives a worker trouble.
    pub fn trouble(&mut self, place: usize, trouble: Trouble) -> u64 {
        let at = micros();
        self.fleet.tell(place, Order::Trouble(trouble));
        at
    }

    /// Ends the trouble of a worker, in it and in its network.
    pub fn heal(&mut self, place: usize, what: &str, from: u64) {
        self.fleet.tell(place, Order::Heal);
        if let Some(network) = self.site.network(place) {
            network.heal();
        }
        if let Some(namespace) = self.namespaces.get(place) {
            namespace.heal();
        }
        self.did(what, from, Some(place));
    }

    /// Notes what was done until now.
    pub fn did(&mut self, what: &str, from: u64, worker: Option<usize>) {
        self.findings.windows.push(Window {
            what: what.to_owned(),
            from,
            to: micros(),
            worker,
            paused: false,
        });
    }

    /// Losses of this worker are expected.
    pub fn strikes(&mut self, place: usize) {
        self.findings.struck.insert(place);
    }

    /// Notes a time between two moments.
    pub fn took(&mut self, what: &str, from: u64, to: u64, limit: Option<Duration>) {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes")]
        let millis = to.saturating_sub(from) as f64 / 1000.0;
        let by = limit.map_or(0, |limit| to.saturating_sub(from + as_micros(limit)));
        let limit = limit.map(|limit| limit.as_secs_f64() * 1000.0);
        if by > 0 {
            let promised = limit.unwrap_or_default();
            let text = format!("{what}: {millis:.1} ms, at most {promised:.1} were promised");
            self.findings.exceeded.push(Exceeded {
                text,
                from,
                to,
                by,
                pid: None,
            });
        }
        self.measured(what, millis, limit, "ms");
    }

    /// Notes a number.
    pub fn measure(&mut self, what: &str, value: f64, limit: Option<f64>, unit: &'static str) {
        if let Some(limit) = limit
            && value > limit
        {
            let failure = format!("{what}: {value:.1} {unit}, at most {limit:.1} were promised");
            self.findings.failures.push(failure);
        }
        self.measured(what, value, limit, unit);
    }

    fn measured(&mut self, what: &str, value: f64, limit: Option<f64>, unit: &'static str) {
        let measures = &mut self.findings.measures;
        match measures.iter_mut().find(|measure| measure.what == what) {
            Some(measure) => measure.values.push(value),
            None => measures.push(Measure {
                what: what.to_owned(),
                values: vec![value],
                limit,
                unit,
            }),
        }
    }

    /// Expects that this owner has not been told of a loss.
    pub fn still_holds(&mut self, kept: Kept, otherwise: &str) {
        if let Some(at) = self.loss(kept, Duration::ZERO) {
            let lost = Exceeded::loss(otherwise.to_owned(), at, self.times);
            self.findings.exceeded.push(lost);
        }
    }

    /// Expects something.
    pub fn expect(&mut self, so: bool, otherwise: impl Into<String>) {
        if !so {
            self.findings.failures.push(otherwise.into());
        }
    }

    /// Notes what a reader should know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.findings.notes.push(note.into());
    }
}
