//! Sixteen waiters of four processes ask for one lock at once, and each holds it for 5 ms. Beside it:
//! the same sixteen sleeps, one after another. The time runs from the first one's asking to the last
//! one's release, by the clock that the processes have in common: what it takes to tell a process to
//! begin, and to hear that it has ended, is no lock's.
//!
//! Between two of them the lock changes hands: the release goes to the store, the store tells who waits,
//! who asks for the lock, and the store answers. A bare client that tells another one something, which
//! then writes something, does the least of that. So the sleeps with such a hand-off between each two of
//! them are what there is to reach on this machine, however slow it is to wake a process.

use super::{Failure, Measuring, ROUNDS, Spread, Target};
use distributed_locker::{AcquireOptions, Locker, Wait};
use locker_core::Connect;
use nix::time::{ClockId, clock_gettime};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The word by which this program becomes one of the processes.
pub(super) const CHILD: &str = "waiters-of-one-process";

/// How many processes wait.
pub const PROCESSES: usize = 4;
/// How many waiters each of them has.
pub const WAITERS_EACH: usize = 4;
/// How long each holds the lock.
pub const HOLD: Duration = Duration::from_millis(5);
/// How often the lock changes hands.
const HAND_OFFS: usize = PROCESSES * WAITERS_EACH - 1;

const READY: &str = "ready";
const DONE: &str = "done";

struct Process {
    /// Kept: its drop kills the process.
    _child: Child,
    words: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(url: &str) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([CHILD, url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let words = child.stdin.take().ok_or("a pipe")?;
        let answers = BufReader::new(child.stdout.take().ok_or("a pipe")?).lines();
        Ok(Self {
            _child: child,
            words,
            answers,
        })
    }

    /// What it says after this word.
    async fn says(&mut self, word: &str) -> Result<String, Failure> {
        let said = self.answers.next_line().await?;
        let after = said.as_deref().and_then(|line| line.strip_prefix(word));
        match after {
            Some(after) => Ok(after.trim_start().to_owned()),
            None => Err(format!("a process said {said:?} and not {word:?}").into()),
        }
    }

    /// When it asked first and when it released last, in nanoseconds of the common clock.
    async fn done(&mut self) -> Result<(u128, u128), Failure> {
        let said = self.says(DONE).await?;
        let times = said.split_once(' ').ok_or("two times")?;
        Ok((times.0.parse()?, times.1.parse()?))
    }
}

/// Measures how long it takes until all of them had the lock; beside it, hand-offs of the bare client,
/// which says how long one took.
///
/// # Errors
///
/// The store's, of any of the processes, or the bare client's.
pub async fn waiters(
    measuring: &mut Measuring,
    url: &str,
    mut bare: impl AsyncFnMut() -> Result<Duration, Failure>,
    target: Target,
) -> Result<(), Failure> {
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(url)?);
    }
    for process in &mut processes {
        process.says(READY).await?;
    }
    let (mut ratios, mut took) = (Vec::new(), Vec::new());
    let (mut to_bare, mut bare_took) = (Vec::new(), Vec::new());
    // The first one warms up.
    for round in 0..=ROUNDS {
        measuring.doing(format!("16 waiters: round {round} of {ROUNDS}"));
        for process in &mut processes {
            process.words.write_all(b"go\n").await?;
        }
        let (mut asked, mut released) = (u128::MAX, 0);
        for process in &mut processes {
            let (first, last) = process.done().await?;
            asked = asked.min(first);
            released = released.max(last);
        }
        let ours = seconds(released.saturating_sub(asked));
        let sleeps = sleeps().await;
        let mut hand_offs = 0.0;
        for _ in 0..HAND_OFFS {
            // The machine is as idle as it is before a hand-off.
            tokio::time::sleep(HOLD).await;
            hand_offs += bare().await?.as_secs_f64();
        }
        if round > 0 {
            ratios.push(ours / sleeps);
            to_bare.push(ours / (sleeps + hand_offs));
            took.push(ours * 1e3);
            bare_took.push(hand_offs * 1e3);
        }
    }
    let what = "16 waiters of 4 processes, 5 ms each, to 16 sleeps";
    measuring.report.ratio(what, Spread::of(ratios), target);
    let what = "the same, to 16 sleeps and 15 bare hand-offs";
    let to_bare = Spread::of(to_bare);
    measuring.report.ratio(what, to_bare, Target::None);
    let took = Spread::of(took);
    measuring.report.figure(
        "16 waiters of 4 processes",
        format!(
            "all through in {:.1} ms ({:.1} to {:.1}); 15 bare hand-offs {:.1} ms",
            took.median,
            took.least,
            took.most,
            Spread::of(bare_took).median
        ),
    );
    Ok(())
}

/// How many seconds as many sleeps take one after another.
pub async fn sleeps() -> f64 {
    let begun = Instant::now();
    for _ in 0..PROCESSES * WAITERS_EACH {
        tokio::time::sleep(HOLD).await;
    }
    begun.elapsed().as_secs_f64()
}

/// One of the processes: for each line that it reads, its waiters get the lock once each.
pub(super) async fn child(store: Arc<dyn Connect>) -> Result<(), Failure> {
    let locker = Locker::builder(store).start().await?;
    say(READY).await?;
    let mut words = BufReader::new(tokio::io::stdin()).lines();
    while words.next_line().await?.is_some() {
        let asked = now()?;
        let waiters: Vec<_> = (0..WAITERS_EACH)
            .map(|_| {
                let locker = locker.clone();
                tokio::spawn(async move {
                    let options = AcquireOptions::new().wait(Wait::Forever);
                    let acquired = locker.acquire("bench-waiters", options).await?;
                    let guard = acquired.guard().ok_or("a waiter was sent away")?;
                    tokio::time::sleep(HOLD).await;
                    guard.release().await?;
                    Ok::<_, Failure>(())
                })
            })
            .collect();
        for waiter in waiters {
            waiter.await??;
        }
        say(&format!("{DONE} {asked} {}", now()?)).await?;
    }
    Ok(())
}

/// The clock that all processes of a machine have in common, in nanoseconds.
fn now() -> Result<u128, Failure> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos())
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn seconds(nanoseconds: u128) -> f64 {
    nanoseconds as f64 / 1e9
}

async fn say(word: &str) -> Result<(), Failure> {
    let mut out = tokio::io::stdout();
    out.write_all(format!("{word}\n").as_bytes()).await?;
    Ok(out.flush().await?)
}
