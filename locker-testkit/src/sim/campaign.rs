//! Many histories, on as many threads as there are processors. Which thread plays a history does
//! not matter: a history follows from its seed alone.

use super::{Fault, Faults, Run, Subject, Tally, run};
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What many histories came to.
#[derive(Debug, Default)]
pub struct Campaign {
    /// How many were played.
    pub histories: u64,
    /// What was done to the clusters.
    pub faults: Faults,
    /// What came of it.
    pub tally: Tally,
    /// Virtual seconds.
    pub lasted_secs: f64,
    /// The longest time that a cluster took to serve everybody after the faults.
    pub healed_within: Duration,
    /// The violation with the smallest seed, of those that were found.
    pub worst: Option<Run>,
}

impl Campaign {
    fn add(&mut self, run: Run) {
        self.histories += 1;
        self.faults.add(&run.history.faults);
        self.tally.add(&run.history.tally);
        self.lasted_secs += run.lasted.as_secs_f64();
        self.healed_within = self.healed_within.max(run.healed_within);
        let worse = match (&run.violation, &self.worst) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(_), Some(worst)) => run.seed < worst.seed,
        };
        if worse {
            self.worst = Some(run);
        }
    }
}

/// Plays the histories of these seeds, until one is violated: then those with smaller seeds are
/// still played, so the answer is the same on every machine. `progress` is told each seed that is
/// done.
pub fn play(seeds: Range<u64>, subject: Subject, progress: impl Fn(u64) + Sync) -> Campaign {
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let campaign = Mutex::new(Campaign::default());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        return;
                    }
                    let run = run(seed, subject, false);
                    if run.violation.is_some() {
                        end.fetch_min(seed, Ordering::Relaxed);
                    }
                    progress(seed);
                    if let Ok(mut campaign) = campaign.lock() {
                        campaign.add(run);
                    }
                }
            });
        }
    });
    campaign.into_inner().unwrap_or_default()
}

impl fmt::Display for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            events,
            grants,
            take_overs,
            losses,
            completed,
            unconfirmed,
            late,
            late_but_released,
            settled,
            incarnations,
        } = &self.tally;
        let mut row = |number: &dyn fmt::Display, what: &str| writeln!(f, "{number:>12} {what}");
        row(&self.histories, "histories")?;
        row(&events, "events")?;
        row(&format!("{:.0}", self.lasted_secs), "virtual seconds")?;
        row(&grants, "grants")?;
        row(&take_overs, "take-overs from the dead")?;
        row(&losses, "losses told")?;
        row(&completed, "jobs completed, release confirmed")?;
        row(
            &unconfirmed,
            "jobs completed, release not confirmed in time",
        )?;
        row(&late, "jobs told by the release that the lock was lost")?;
        row(
            &late_but_released,
            "  of these, the first release had taken effect",
        )?;
        row(&settled, "attempts of unknown outcome, settled")?;
        row(&incarnations, "incarnations")?;
        row(
            &format!("{:.2?}", self.healed_within),
            "longest time to heal",
        )?;
        row(&self.faults.total(), "faults:")?;
        for fault in Fault::ALL {
            row(&self.faults.of(fault), &format!("  {fault}"))?;
        }
        Ok(())
    }
}
