//! What the machine took from the processes of a case.
//!
//! From that follows whether a time that was longer than promised says anything about the locker.
//! Three things are looked at:
//!
//! * how long each thread was ready to run and did not: the kernel counts it;
//! * how long a processor stood still, as a machine's does whose host has other work: a thread on
//!   each of them notices. To the kernel, what runs there has run all the time;
//! * how long anybody waited for a disk. No case needs one, its folder is in memory; but the pages of
//!   a program are read from there when they are first used, or were given away meanwhile.
//!
//! Where the kernel does not tell, only the gaps count that the processes notice themselves.

use super::event::{Event, Record};
use super::log::Log;
use super::times::micros;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the threads are looked at.
const PACE: Duration = Duration::from_millis(10);
/// A look at all threads costs something, so not every one is.
const LOOKS: u32 = 2;
/// The harness itself did not run for so long, in microseconds: worth an event.
const WORTH_TELLING: u64 = 30_000;
/// A processor did not run the thread that watches it for so much longer than it slept, in
/// microseconds.
const STOOD_STILL: u64 = 5_000;

/// The processes of a case, and how long their threads have waited for a processor.
#[derive(Debug, Clone, Default)]
pub struct Machine(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    processes: Mutex<BTreeSet<u32>>,
    /// Those whose children count as well, whenever they are born.
    parents: Mutex<BTreeSet<u32>>,
    waits: Mutex<Vec<Wait>>,
    over: AtomicBool,
}

/// Somebody had to wait for so long, at some time between these moments.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// Who; nobody in particular where it may have been anyone.
    pid: Option<u32>,
    from: u64,
    to: u64,
    micros: u64,
}

/// Looks at the threads until it is dropped.
#[derive(Debug)]
pub(super) struct Watch(Machine);

impl Machine {
    /// From now on the threads of this process count; a process that has ended is left out by itself.
    pub fn includes(&self, pid: u32) {
        lock(&self.0.processes).insert(pid);
    }

    /// From now on the threads of this process and of its children count.
    pub fn includes_family(&self, pid: u32) {
        lock(&self.0.parents).insert(pid);
        self.includes(pid);
    }

    /// How much of the time between two moments was spent waiting for the machine, in microseconds:
    /// by one process or by all of them, together, at most the whole of it.
    ///
    /// A hand-off from one process to another goes through many threads, one after the other. It
    /// cannot have been delayed by the machine for longer than this.
    pub fn took(&self, from: u64, to: u64, whom: Option<u32>) -> u64 {
        let counts = |wait: &&Wait| whom.is_none() || wait.pid.is_none() || wait.pid == whom;
        let within = |wait: &Wait| {
            let overlap = wait.to.min(to).saturating_sub(wait.from.max(from));
            wait.micros.min(overlap)
        };
        let sum: u64 = lock(&self.0.waits).iter().filter(counts).map(within).sum();
        sum.min(to.saturating_sub(from))
    }

    /// Begins to look; what the harness itself misses goes into the log.
    pub(super) fn watch(&self, log: Log) -> Watch {
        let machine = self.clone();
        machine.includes(std::process::id());
        for processor in processors() {
            let machine = self.clone();
            std::thread::spawn(move || machine.watch_processor(processor));
        }
        std::thread::spawn(move || {
            let mut disk = waited_for_a_disk();
            let mut known = HashMap::new();
            let (mut last, mut looked) = (micros(), micros());
            let mut round: u32 = 0;
            while !machine.0.over.load(Ordering::Relaxed) {
                std::thread::sleep(PACE);
                let now = micros();
                if now - last > WORTH_TELLING {
                    log.push(Record {
                        at: now,
                        worker: usize::MAX,
                        pid: std::process::id(),
                        event: Event::Gap { from: last },
                    });
                }
                last = now;
                round += 1;
                if round.is_multiple_of(LOOKS) {
                    machine.look(looked, &mut known);
                    let before = std::mem::replace(&mut disk, waited_for_a_disk());
                    if let (Some(before), Some(waited)) = (before, disk) {
                        machine.anybody_waited(looked, now, waited.saturating_sub(before));
                    }
                    looked = now;
                }
            }
        });
        Watch(self.clone())
    }

    /// Notices when this processor stands still.
    fn watch_processor(&self, processor: usize) {
        let mut only_there = CpuSet::new();
        let there = only_there
            .set(processor)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only_there));
        if there.is_err() {
            return;
        }
        let pace = u64::try_from(PACE.as_micros()).unwrap_or(u64::MAX);
        let mut last = micros();
        while !self.0.over.load(Ordering::Relaxed) {
            std::thread::sleep(PACE);
            let now = micros();
            let missed = (now - last).saturating_sub(pace);
            if missed > STOOD_STILL {
                self.anybody_waited(last, now, missed);
            }
            last = now;
        }
    }

    fn anybody_waited(&self, from: u64, to: u64, micros: u64) {
        if micros > 0 {
            let wait = Wait {
                pid: None,
                from: from.saturating_sub(micros),
                to,
                micros,
            };
            lock(&self.0.waits).push(wait);
        }
    }

    /// Reads what has been added since the last look. The kernel adds a wait when it is over, so it
    /// may have begun long before.
    fn look(&self, before: u64, known: &mut HashMap<u32, u64>) {
        for parent in lock(&self.0.parents).iter() {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            let children = children.unwrap_or_default();
            let children = children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok());
            lock(&self.0.processes).extend(children);
        }
        let processes: Vec<u32> = lock(&self.0.processes).iter().copied().collect();
        let mut waits = Vec::new();
        for pid in processes {
            let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
                lock(&self.0.processes).remove(&pid);
                continue;
            };
            for thread in threads.flatten() {
                let id = thread.file_name().to_string_lossy().parse::<u32>();
                let told = fs::read_to_string(thread.path().join("schedstat"));
                let (Ok(id), Ok(told)) = (id, told) else {
                    continue;
                };
                let Some(waited) = waited(&told) else {
                    continue;
                };
                let micros_waited = waited.saturating_sub(known.insert(id, waited).unwrap_or(0));
                if micros_waited > 0 {
                    waits.push(Wait {
                        pid: Some(pid),
                        from: before.saturating_sub(micros_waited),
                        to: micros(),
                        micros: micros_waited,
                    });
                }
            }
        }
        lock(&self.0.waits).extend(waits);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.0.over.store(true, Ordering::Relaxed);
    }
}

/// The processors that this process may run on.
fn processors() -> Vec<usize> {
    let Ok(all) = sched_getaffinity(Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..CpuSet::count())
        .filter(|processor| all.is_set(*processor).unwrap_or(false))
        .collect()
}

/// For how long, in all, somebody on this machine has waited for a disk, in microseconds; not every
/// kernel tells.
fn waited_for_a_disk() -> Option<u64> {
    stalled(&fs::read_to_string("/proc/pressure/io").ok()?)
}

/// The total of the line `some` of a file of `/proc/pressure`.
fn stalled(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find(|line| line.starts_with("some "))?;
    let total = some
        .split(' ')
        .find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok()
}

/// The second number of a thread's `schedstat`: nanoseconds ready to run, here in microseconds.
fn waited(schedstat: &str) -> Option<u64> {
    let nanos: u64 = schedstat.split_whitespace().nth(1)?.parse().ok()?;
    Some(nanos / 1000)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(waits: &[(u32, u64, u64, u64)]) -> Machine {
        let machine = Machine::default();
        lock(&machine.0.waits).extend(waits.iter().map(|&(pid, from, to, micros)| Wait {
            pid: (pid > 0).then_some(pid),
            from,
            to,
            micros,
        }));
        machine
    }

    #[test]
    fn waits_count_as_far_as_they_can_lie_between_the_two_moments() {
        let one = machine(&[(1, 100, 200, 30)]);
        assert_eq!(one.took(0, 1000, None), 30);
        assert_eq!(one.took(190, 1000, None), 10);
        assert_eq!(one.took(200, 1000, None), 0);
    }

    #[test]
    fn threads_wait_one_after_the_other_and_never_longer_than_there_was_time() {
        let many = machine(&[(1, 0, 100, 60), (2, 0, 100, 60), (2, 50, 100, 10)]);
        assert_eq!(many.took(0, 1000, None), 130);
        assert_eq!(many.took(0, 100, None), 100);
    }

    #[test]
    fn what_one_process_has_waited_is_told_apart() {
        let many = machine(&[(1, 0, 100, 60), (2, 0, 100, 50), (2, 50, 100, 10)]);
        assert_eq!(many.took(0, 1000, Some(1)), 60);
        assert_eq!(many.took(0, 1000, Some(2)), 60);
        assert_eq!(many.took(0, 1000, Some(3)), 0);
        let anyone = machine(&[(1, 0, 100, 60), (0, 0, 100, 7)]);
        assert_eq!(anyone.took(0, 1000, Some(3)), 7);
    }

    #[test]
    fn what_the_kernel_tells_of_a_disk_is_understood() {
        let pressure = "some avg10=0.40 avg60=1.00 avg300=0.83 total=10213175\n\
                        full avg10=0.29 avg60=0.52 avg300=0.21 total=3838914\n";
        assert_eq!(stalled(pressure), Some(10_213_175));
        assert_eq!(stalled(""), None);
    }

    #[test]
    fn a_processor_that_runs_is_not_said_to_stand_still_all_the_time() {
        assert!(!processors().is_empty());
        let machine = Machine::default();
        let watched = machine.clone();
        let watching = std::thread::spawn(move || watched.watch_processor(processors()[0]));
        let (from, second) = (micros(), 1_000_000);
        std::thread::sleep(Duration::from_secs(1));
        machine.0.over.store(true, Ordering::Relaxed);
        watching.join().unwrap();
        assert!(machine.took(from, from + second, None) < second / 2);
    }

    #[test]
    fn what_the_kernel_tells_of_a_thread_is_understood() {
        assert_eq!(waited("693170 6904335 23\n"), Some(6904));
        assert_eq!(waited(""), None);
    }
}
