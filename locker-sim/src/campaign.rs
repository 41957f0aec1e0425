//! Many histories, on as many threads as there are processors. Which thread plays a history does
//! not matter: a history follows from its seed alone.

use super::{Fault, Faults, Kind, Mark, Marks, Run, Tally, Violation, run};
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What many histories came to.
#[derive(Debug, Default)]
pub struct Campaign {
    /// How many were played.
    pub histories: u64,
    /// How many of them on each kind of store.
    pub kinds: [u64; Kind::ALL.len()],
    /// What was done to the clusters.
    pub faults: Faults,
    /// What was seen.
    pub marks: Marks,
    /// What came of it.
    pub tally: Tally,
    /// Virtual milliseconds.
    pub lasted_ms: u64,
    /// The longest time that a cluster took to serve everybody after the faults, in milliseconds.
    pub healed_within_ms: u64,
    /// The violation with the smallest seed, of those that were found.
    pub worst: Option<(u64, Violation)>,
}

impl Campaign {
    fn add(&mut self, run: Run) {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(0);
        self.histories += 1;
        self.kinds[run.kind as usize] += 1;
        self.faults.add(&run.history.faults);
        self.marks.add(&run.history.marks);
        self.tally.add(&run.history.tally);
        self.lasted_ms += millis(run.lasted);
        self.healed_within_ms = self.healed_within_ms.max(millis(run.healed_within));
        self.blame(run.violation.map(|violation| (run.seed, violation)));
    }

    fn blame(&mut self, other: Option<(u64, Violation)>) {
        if let Some((seed, violation)) = other
            && self.worst.as_ref().is_none_or(|(worst, _)| seed < *worst)
        {
            self.worst = Some((seed, violation));
        }
    }

    /// Adds another campaign.
    pub fn merge(&mut self, other: Self) {
        self.histories += other.histories;
        for (mine, theirs) in self.kinds.iter_mut().zip(other.kinds) {
            *mine += theirs;
        }
        self.faults.add(&other.faults);
        self.marks.add(&other.marks);
        self.tally.add(&other.tally);
        self.lasted_ms += other.lasted_ms;
        self.healed_within_ms = self.healed_within_ms.max(other.healed_within_ms);
        self.blame(other.worst);
    }

    /// All its numbers, for [`of_numbers`](Self::of_numbers).
    pub fn numbers(&self) -> Vec<u64> {
        let mut numbers = vec![self.histories, self.lasted_ms, self.healed_within_ms];
        numbers.extend(self.kinds);
        numbers.extend(Fault::ALL.map(|fault| self.faults.of(fault)));
        numbers.extend(Mark::ALL.map(|mark| self.marks.of(mark)));
        numbers.extend(self.tally.numbers());
        numbers
    }

    /// The campaign of these numbers, in which nothing was violated. `None` if they are another
    /// release's.
    pub fn of_numbers(numbers: &[u64]) -> Option<Self> {
        let mut numbers = numbers.iter().copied();
        let mut campaign = Self {
            histories: numbers.next()?,
            lasted_ms: numbers.next()?,
            healed_within_ms: numbers.next()?,
            ..Self::default()
        };
        for kind in &mut campaign.kinds {
            *kind = numbers.next()?;
        }
        for fault in Fault::ALL {
            campaign.faults.add_of(fault, numbers.next()?);
        }
        for mark in Mark::ALL {
            campaign.marks.add_of(mark, numbers.next()?);
        }
        campaign.tally = Tally::of_numbers(&mut numbers)?;
        numbers.next().is_none().then_some(campaign)
    }
}

/// Plays the histories of these seeds, until one is violated: then those with smaller seeds are
/// still played, so the answer is the same on every machine. `progress` is told each seed that is
/// done.
pub fn play(seeds: Range<u64>, progress: impl Fn(u64) + Sync) -> Campaign {
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let all = Mutex::new(Campaign::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Campaign::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        break;
                    }
                    let run = run(seed, false);
                    if run.violation.is_some() {
                        end.fetch_min(seed, Ordering::Relaxed);
                    }
                    mine.add(run);
                    progress(seed);
                }
                if let Ok(mut all) = all.lock() {
                    all.merge(mine);
                }
            });
        }
    });
    all.into_inner().unwrap_or_default()
}

impl fmt::Display for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |number: &dyn fmt::Display, what: &str| writeln!(f, "{number:>12} {what}");
        row(&self.histories, "histories")?;
        for kind in Kind::ALL {
            row(&self.kinds[kind as usize], &format!("  on {kind}"))?;
        }
        row(&(self.lasted_ms / 1000), "virtual seconds")?;
        for (number, what) in self.tally.numbers().into_iter().zip(Tally::WORDS) {
            row(&number, what)?;
        }
        let healed = &self.healed_within_ms;
        row(healed, "ms were the longest time to heal")?;
        row(&self.faults.total(), "faults:")?;
        for fault in Fault::ALL {
            row(&self.faults.of(fault), &format!("  {fault}"))?;
        }
        row(
            &self.marks.total(),
            "times that something worth seeing was seen:",
        )?;
        for mark in Mark::ALL {
            row(&self.marks.of(mark), &format!("  {mark}"))?;
        }
        Ok(())
    }
}
