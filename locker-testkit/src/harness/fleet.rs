//! The worker processes, from outside.

use super::event::{Event, Record};
use super::log::Log;
use super::machine::Machine;
use super::order::{Config, Order};
use super::times::micros;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The workers of a case; whoever is left is killed with it.
#[derive(Debug)]
pub struct Fleet {
    /// The program that becomes a worker: `PROGRAM worker CONFIG`.
    program: PathBuf,
    /// What every worker starts with, besides its place.
    config: Config,
    /// Where the worker of each place finds the store.
    urls: Vec<String>,
    /// What stands before the command line of each place.
    before: Vec<Vec<String>>,
    /// The events of all workers.
    pub log: Log,
    /// What the machine took from them.
    pub machine: Machine,
    places: Vec<Option<Worker>>,
    /// When which process was killed.
    pub killed: HashMap<u32, u64>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Worker {
    child: Child,
    orders: ChildStdin,
}

impl Fleet {
    /// No worker yet. Each of these places finds the store at its own URL.
    pub fn new(program: PathBuf, config: Config, urls: Vec<String>) -> Self {
        Self {
            program,
            config,
            log: Log::default(),
            machine: Machine::default(),
            places: urls.iter().map(|_| None).collect(),
            before: urls.iter().map(|_| Vec::new()).collect(),
            urls,
            killed: HashMap::new(),
            readers: Vec::new(),
        }
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// From its next start on, the worker of this place finds the store at this URL, and its command
    /// line begins so.
    pub fn moves(&mut self, place: usize, url: String, before: Vec<String>) {
        if let (Some(its_url), Some(its_before)) =
            (self.urls.get_mut(place), self.before.get_mut(place))
        {
            (*its_url, *its_before) = (url, before);
        }
    }

    /// Starts a worker in this place.
    pub fn start(&mut self, place: usize, works: bool) -> io::Result<()> {
        let config = Config {
            worker: place,
            url: self.urls.get(place).cloned().unwrap_or_default(),
            works,
            ..self.config.clone()
        };
        let mut command = match self.before.get(place).and_then(|words| words.split_first()) {
            None => Command::new(&self.program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.program);
                command
            }
        };
        let mut child = command
            .arg("worker")
            .arg(serde_json::to_string(&config)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(orders), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("a worker without pipes"));
        };
        self.machine.includes(child.id());
        let log = self.log.clone();
        self.readers.push(std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Ok(record) = serde_json::from_str::<Record>(&line) {
                    log.push(record);
                }
            }
        }));
        if let Some(slot) = self.places.get_mut(place) {
            *slot = Some(Worker { child, orders });
        }
        Ok(())
    }

    /// Waits until the workers of these places are ready.
    pub fn ready(&self, places: impl IntoIterator<Item = usize>) -> Result<(), String> {
        for place in places {
            let Some(pid) = self.pid(place) else { continue };
            let said = self.log.wait_for(0, Duration::from_secs(20), |record| {
                (record.pid == pid).then(|| match &record.event {
                    Event::Ready => Some(Ok(())),
                    Event::Failed { why } => Some(Err(why.clone())),
                    _ => None,
                })?
            });
            said.ok_or_else(|| format!("worker {place} did not start"))??;
        }
        Ok(())
    }

    /// The process in this place.
    pub fn pid(&self, place: usize) -> Option<u32> {
        Some(self.places.get(place)?.as_ref()?.child.id())
    }

    /// Gives an order.
    pub fn tell(&mut self, place: usize, order: Order) {
        if let Some(Some(worker)) = self.places.get_mut(place)
            && let Ok(mut line) = serde_json::to_vec(&order)
        {
            line.push(b'\n');
            // A worker that is gone obeys no more; its end is noticed by whoever waits for it.
            let _ = worker.orders.write_all(&line);
        }
    }

    /// Sends a signal; answers when.
    pub fn signal(&self, place: usize, signal: Signal) -> u64 {
        let at = micros();
        if let Some(pid) = self.pid(place) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
        at
    }

    /// Kills the worker of this place and reaps it; answers when it was killed.
    pub fn kill(&mut self, place: usize) -> u64 {
        let at = micros();
        if let Some(Some(mut worker)) = self.places.get_mut(place).map(Option::take) {
            self.killed.insert(worker.child.id(), at);
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
        at
    }

    /// Waits for a worker to end by itself; kills it if it does not.
    pub fn wait(&mut self, place: usize, patience: Duration) -> Option<ExitStatus> {
        let worker = self.places.get_mut(place)?.as_mut()?;
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Ok(Some(status)) = worker.child.try_wait() {
                self.places[place] = None;
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill(place);
        None
    }

    /// Tells everybody to end, and waits for it. Answers who had to be killed.
    pub fn end(&mut self, patience: Duration) -> Vec<usize> {
        for place in 0..self.places.len() {
            self.tell(place, Order::End);
        }
        let there = |place: &usize| self.pid(*place).is_some();
        let there: Vec<usize> = (0..self.places.len()).filter(there).collect();
        let stayed = there
            .into_iter()
            .filter(|place| self.wait(*place, patience).is_none())
            .collect();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        stayed
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for place in 0..self.places.len() {
            self.kill(place);
        }
    }
}
