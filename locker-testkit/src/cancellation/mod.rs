//! The cancellation sweep (F25, S7, L8): every future of the locker is dropped after each of its
//! polls, under each fault, and must leave nothing behind.
//!
//! One run is a subject, a fault and a number n: the subject is polled n times, each time because it
//! was woken, and dropped. Then time passes, and what was held back is delivered. In the end the
//! locker has no key, the store no record and no waiter, another process gets the lock, and the
//! runtime has as many tasks as before. A subject that ends by itself ends the sweep of its fault;
//! if it ends with a guard, the lock is the caller's as long as the guard is there, and free
//! afterwards.

pub(crate) mod cut;
mod stage;
mod subjects;

pub use stage::Stage;

use crate::fixture::Fixture;
use crate::wrap::{Fault, Scope};
use cut::{Cut, cut};
use distributed_locker::{LockGuard, Locker};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use subjects::{Prepared, SUBJECTS, Subject};

/// A subject that is still not done after so many polls is taken for one that never ends.
const MOST_POLLS: usize = 60;
/// A stall lasts until the subject is gone, and some outlast every outage: later polls are like the
/// ones before.
const MOST_STALLED_POLLS: usize = 10;

/// What happens to the first request that the subject makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// It is executed and its answer is lost.
    LostReply,
    /// It is lost.
    LostRequest,
    /// It and all after it wait until the subject is gone.
    Stall,
    /// It is held back, and delivered when the subject is gone.
    Held,
    /// It is held back, and delivered long after everything seems settled (F29).
    HeldLong,
}

impl Trouble {
    /// Those with the longest runs first: so no thread is left with a long one in the end.
    const ALL: [Self; 6] = [
        Self::Stall,
        Self::LostReply,
        Self::HeldLong,
        Self::Held,
        Self::LostRequest,
        Self::None,
    ];

    fn fault(self) -> Option<Fault> {
        match self {
            Self::None => None,
            Self::LostReply => Some(Fault::LoseReply),
            Self::LostRequest => Some(Fault::LoseRequest),
            Self::Stall => Some(Fault::Stall),
            Self::Held | Self::HeldLong => Some(Fault::Hold),
        }
    }
}

/// One future that was dropped after one of its polls.
#[derive(Debug, Clone)]
pub struct Run {
    /// Which future.
    pub subject: &'static str,
    /// After how many polls; the last of its fault has ended by itself.
    pub polls: usize,
    /// What happened to its first request.
    pub trouble: Trouble,
    /// Whether it ended before it could be dropped.
    pub ended: bool,
    /// What was left behind; nothing, if all is well.
    pub findings: Vec<String>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.ended {
            "ended by itself"
        } else {
            "dropped"
        };
        let (subject, polls) = (self.subject, self.polls);
        write!(
            f,
            "{subject}, {:?}, {how} after {polls} polls",
            self.trouble
        )?;
        for finding in &self.findings {
            write!(f, "\n    FOUND: {finding}")?;
        }
        Ok(())
    }
}

/// Sweeps as [`sweep`] does, prints the list of all runs, and wants none of them to have left anything.
///
/// # Panics
///
/// If one has, or if there was none.
#[expect(clippy::print_stdout, reason = "the list is what one runs it for")]
pub fn leaves_nothing<F: Fixture>(threads: usize) {
    let runs = sweep::<F>(threads);
    for run in &runs {
        println!("{run}");
    }
    let found = runs.iter().filter(|run| !run.findings.is_empty());
    let found: Vec<String> = found.map(ToString::to_string).collect();
    println!("{} runs, {} with findings", runs.len(), found.len());
    assert!(!runs.is_empty(), "something was dropped");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Sweeps all futures, polls and faults, on so many threads, and answers all runs.
pub fn sweep<F: Fixture>(threads: usize) -> Vec<Run> {
    let works: Vec<(&Subject<F>, Trouble)> = Trouble::ALL
        .iter()
        .flat_map(|trouble| {
            SUBJECTS::<F>::LIST
                .iter()
                .map(|subject| (subject, *trouble))
        })
        // A future that asks nothing has nothing to get into trouble.
        .filter(|(subject, trouble)| subject.side.is_some() || *trouble == Trouble::None)
        .collect();
    let next = AtomicUsize::new(0);
    let runs = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((subject, trouble)) = works.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let swept = every_poll(subject, *trouble);
                    runs.lock().expect("no holder panics").extend(swept);
                }
            });
        }
    });
    let mut runs = runs.into_inner().expect("no holder panics");
    runs.sort_by_key(|run| (run.subject, run.trouble as usize, run.polls));
    runs
}

fn every_poll<F: Fixture>(subject: &Subject<F>, trouble: Trouble) -> Vec<Run> {
    let mut runs = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for the runs");
    let mut stage = None;
    let most = match trouble {
        Trouble::Stall => MOST_STALLED_POLLS,
        _ => MOST_POLLS,
    };
    for polls in 0..=most {
        let run = runtime.block_on(async {
            let stage = match &mut stage {
                Some(stage) => stage,
                none => none.insert(Stage::<F>::open().await),
            };
            one(stage, subject, trouble, polls).await
        });
        // What has left nothing behind may be used again.
        if subject.ends_its_locker || !run.findings.is_empty() {
            stage = None;
        }
        let ended = run.ended;
        runs.push(run);
        if ended {
            return runs;
        }
    }
    if let Some(last) = runs.last_mut().filter(|_| trouble != Trouble::Stall) {
        let text = format!("it was not done after {MOST_POLLS} polls");
        last.findings.push(text);
    }
    runs
}

/// One run.
async fn one<F: Fixture>(
    stage: &Stage<F>,
    subject: &Subject<F>,
    trouble: Trouble,
    polls: usize,
) -> Run {
    let Prepared {
        future,
        helper,
        kept,
    } = (subject.prepare)(stage).await;
    if let (Some(fault), Some(side)) = (trouble.fault(), subject.side) {
        let scope = Scope::all().from(side);
        let once = if fault == Fault::Stall {
            scope
        } else {
            scope.once()
        };
        stage.faulty().inject(once, fault);
    }
    let helping = async {
        helper.await;
        std::future::pending::<()>().await;
    };
    let outcome = stage.within_limit(cut(future, polls), helping).await;
    let mut findings = Vec::new();
    let ended = match outcome {
        Cut::Ended(output) => {
            stage.faulty().heal();
            if let Some(guard) = output.guard
                && let Some(text) = not_held(stage, &guard).await
            {
                findings.push(text);
            }
            drop(output.locker);
            true
        }
        Cut::Dropped => false,
    };
    stage.faulty().heal();
    if trouble == Trouble::Held {
        stage.pass_a_moment().await;
        stage.deliver().await;
    }
    drop(kept);
    findings.extend(stage.leftovers().await);
    if trouble == Trouble::HeldLong {
        stage.deliver().await;
        stage.pass_a_moment().await;
        findings.extend(stage.leftovers().await);
    }
    findings.extend(stage.leaked_tasks().await);
    Run {
        subject: subject.name,
        polls,
        trouble,
        ended,
        findings,
    }
}

/// A guard that the caller has is the record's owner, or knows that it is lost.
async fn not_held<F: Fixture>(stage: &Stage<F>, guard: &LockGuard) -> Option<String> {
    let owner = stage.owner_of(guard.key()).await;
    let held = owner.as_ref() == Some(guard.owner_hash());
    (guard.is_valid() && !held).then(|| format!("a valid guard, and the record says {owner:?}"))
}

/// What a future ended with, as far as the sweep has to look after it.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) guard: Option<LockGuard>,
    pub(crate) locker: Option<Locker>,
}
