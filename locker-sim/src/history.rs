//! What happened: always as a digest, and as text when somebody wants to read it.

use super::fault::{Fault, Faults};
use super::mark::{Mark, Marks};
use std::fmt;
use std::fmt::Write as _;
use std::hash::Hasher;
use std::time::Duration;

/// The log of one run.
#[derive(Debug, Default)]
pub struct History {
    digest: Digest,
    text: Option<Vec<String>>,
    /// What was done to the cluster.
    pub faults: Faults,
    /// What was seen.
    pub marks: Marks,
    /// What came of it.
    pub tally: Tally,
}

/// What a run came to, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events that were played.
    pub events: u64,
    /// Guards that callers got.
    pub grants: u64,
    /// Grants that replaced the record of a dead process.
    pub take_overs: u64,
    /// Guards that were lost before they were given back.
    pub losses: u64,
    /// Jobs that completed, with a confirmed release.
    pub completed: u64,
    /// Jobs that completed, with a release the store has not confirmed in time.
    pub unconfirmed: u64,
    /// Jobs whose release was answered by "it is not yours": a loss.
    pub late: u64,
    /// Attempts of unknown outcome that were settled.
    pub settled: u64,
    /// Incarnations that were born.
    pub incarnations: u64,
}

impl Tally {
    /// What the numbers are, in words.
    pub const WORDS: [&'static str; 9] = [
        "events",
        "grants",
        "take-overs from the dead",
        "losses told",
        "jobs completed, release confirmed",
        "jobs completed, release not confirmed in time",
        "jobs told by the release that the lock was lost",
        "attempts of unknown outcome, settled",
        "incarnations",
    ];

    /// All numbers, in the order of [`WORDS`](Self::WORDS).
    pub fn numbers(&self) -> [u64; 9] {
        [
            self.events,
            self.grants,
            self.take_overs,
            self.losses,
            self.completed,
            self.unconfirmed,
            self.late,
            self.settled,
            self.incarnations,
        ]
    }

    /// The tally of these numbers.
    pub fn of_numbers(numbers: &mut impl Iterator<Item = u64>) -> Option<Self> {
        Some(Self {
            events: numbers.next()?,
            grants: numbers.next()?,
            take_overs: numbers.next()?,
            losses: numbers.next()?,
            completed: numbers.next()?,
            unconfirmed: numbers.next()?,
            late: numbers.next()?,
            settled: numbers.next()?,
            incarnations: numbers.next()?,
        })
    }

    /// Adds what another run came to.
    pub fn add(&mut self, other: &Self) {
        let mut sums = self.numbers();
        for (mine, theirs) in sums.iter_mut().zip(other.numbers()) {
            *mine += theirs;
        }
        if let Some(sum) = Self::of_numbers(&mut sums.into_iter()) {
            *self = sum;
        }
    }
}

/// FNV-1a: the digest must be the same on every machine and in every release of Rust.
#[derive(Debug)]
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl History {
    /// An empty log; with `as_text` it can be read afterwards.
    pub fn new(as_text: bool) -> Self {
        Self {
            text: as_text.then(Vec::new),
            ..Self::default()
        }
    }

    /// Notes that an event of this number was played at this moment.
    pub fn played(&mut self, at: Duration, number: u64) {
        self.tally.events += 1;
        self.digest.write_u128(at.as_nanos());
        self.digest.write_u64(number);
    }

    /// Notes what happened. The words are made only when somebody will read them, and change
    /// nothing: the history is the same, read or not.
    pub fn note(&mut self, at: Duration, who: impl fmt::Display, what: fmt::Arguments<'_>) {
        if let Some(text) = &mut self.text {
            let mut line = String::new();
            let _ = write!(line, "{:>10.6}  {who:<8} {what}", at.as_secs_f64());
            text.push(line);
        }
    }

    /// Counts a fault.
    pub fn fault(&mut self, fault: Fault) {
        self.digest.write_u8(fault as u8);
        self.faults.count(fault);
    }

    /// Counts something that is worth seeing.
    pub fn mark(&mut self, mark: Mark) {
        self.digest.write_u8(mark as u8);
        self.marks.count(mark);
    }

    /// The same for two equal histories, and for no two others that anybody will ever see.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// The lines, if they were kept.
    pub fn lines(&self) -> &[String] {
        self.text.as_deref().unwrap_or_default()
    }
}
