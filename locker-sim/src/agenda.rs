//! What happens next: a heap of events in true time.

use super::op::{Subscription, Ticket};
use locker_core::Instant;
use locker_core::backend::Hint;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Something that happens.
#[derive(Debug, Clone)]
pub enum Event {
    /// A request reaches the store.
    Arrival(Ticket),
    /// Something reaches a process, or rings in it.
    Process(Knock),
    /// The store wants to go on.
    StoreWake,
    /// Trouble may come.
    Trouble,
    /// An assumption breaks.
    Breach,
    /// A crashed or exited process is started again.
    Start(usize),
    /// The faults end.
    Heal,
}

/// What a process is to look at.
#[derive(Debug, Clone)]
pub struct Knock {
    /// Which process.
    pub process: usize,
    /// Which life of it; a crash ends it.
    pub boot: u32,
    /// What it is about.
    pub call: Call,
    /// The clock as it was read before its thread was descheduled, if it was.
    pub read: Option<Instant>,
    /// When it was meant to be, by the clock of the process, if it is an alarm.
    pub due: Option<Instant>,
}

/// What a process is told.
#[derive(Debug, Clone, Copy)]
pub enum Call {
    /// A reply arrives.
    Reply(Ticket),
    /// The sender waits no longer.
    Timeout(Ticket),
    /// A hint arrives.
    Hint(Subscription, Hint),
    /// An alarm rings. Early and needless alarms are allowed.
    Alarm(Part),
    /// Another thread of the job asks whether the lock is good.
    Ask {
        /// The acquisition.
        hand: u32,
    },
    /// The user drops what this task is at, if it still is at this.
    Drop {
        /// Which task.
        task: usize,
        /// The acquisition that it must still be at.
        hand: u32,
    },
}

/// A part of a process that waits for its time, or for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The loop of the reports.
    Reports,
    /// The retirement of an ended incarnation.
    Retirement(u32),
    /// The loop that extends and checks.
    Upkeep,
    /// The loop that tells losses.
    Watchdog,
    /// The Reporter's own release of what a lost owner left.
    LetGo,
    /// An acquisition, a held lock, or a lock on its way back.
    Hand(u32),
    /// The user's own extension of a held lock.
    Extension(u32),
    /// A user's task.
    Task(usize),
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    number: u64,
    event: Event,
}

/// Everything that will happen, as far as it is known.
#[derive(Debug, Default)]
pub struct Agenda {
    heap: BinaryHeap<Entry>,
    next_number: u64,
}

impl Agenda {
    /// Lets something happen then. Of two events at one moment the first to be added comes first.
    pub fn add(&mut self, at: Duration, event: Event) {
        let number = self.next_number;
        self.next_number += 1;
        self.heap.push(Entry { at, number, event });
    }

    /// What happens next, when, and its number.
    pub fn pop(&mut self) -> Option<(Duration, u64, Event)> {
        let entry = self.heap.pop()?;
        Some((entry.at, entry.number, entry.event))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first; the earliest is wanted.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}
