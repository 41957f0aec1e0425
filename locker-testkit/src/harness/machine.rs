//! What the machine took from the processes of a case.
//!
//! The kernel counts for every thread how long it was ready to run and did not. From that follows
//! whether a time that was longer than promised says anything about the locker. Where the kernel does
//! not tell, only the gaps count that the processes notice themselves.

use super::event::{Event, Record};
use super::log::Log;
use super::times::micros;
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

/// A thread was ready to run for so long, at some time between these moments.
#[derive(Debug, Clone, Copy)]
struct Wait {
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

    /// How much of the time between two moments threads spent waiting for a processor, in
    /// microseconds: all of them together, at most the whole of it.
    ///
    /// A hand-off from one process to another goes through many threads, one after the other. It
    /// cannot have been delayed by the machine for longer than this.
    pub fn took(&self, from: u64, to: u64) -> u64 {
        let within = |wait: &Wait| {
            let overlap = wait.to.min(to).saturating_sub(wait.from.max(from));
            wait.micros.min(overlap)
        };
        let sum = lock(&self.0.waits).iter().map(within).sum::<u64>();
        sum.min(to.saturating_sub(from))
    }

    /// Begins to look; what the harness itself misses goes into the log.
    pub(super) fn watch(&self, log: Log) -> Watch {
        let machine = self.clone();
        machine.includes(std::process::id());
        std::thread::spawn(move || {
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
                    looked = now;
                }
            }
        });
        Watch(self.clone())
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

    fn machine(waits: &[(u64, u64, u64)]) -> Machine {
        let machine = Machine::default();
        lock(&machine.0.waits).extend(waits.iter().map(|&(from, to, micros)| Wait {
            from,
            to,
            micros,
        }));
        machine
    }

    #[test]
    fn waits_count_as_far_as_they_can_lie_between_the_two_moments() {
        let one = machine(&[(100, 200, 30)]);
        assert_eq!(one.took(0, 1000), 30);
        assert_eq!(one.took(190, 1000), 10);
        assert_eq!(one.took(200, 1000), 0);
    }

    #[test]
    fn threads_wait_one_after_the_other_and_never_longer_than_there_was_time() {
        let many = machine(&[(0, 100, 60), (0, 100, 60), (50, 100, 10)]);
        assert_eq!(many.took(0, 1000), 130);
        assert_eq!(many.took(0, 100), 100);
    }

    #[test]
    fn what_the_kernel_tells_of_a_thread_is_understood() {
        assert_eq!(waited("693170 6904335 23\n"), Some(6904));
        assert_eq!(waited(""), None);
    }
}
