//! What a lock costs on a store, beside what the bare client costs: the parts that the benchmarks of
//! all stores share. They are programs, not lists of functions: figures are measured in turns with
//! those of the bare client, in one run, because the machine and its other guests change from minute
//! to minute and a ratio does not.
//!
//! A store's benchmark is a `main` that calls [`run`], names its parts, and brings the bare client:
//! [`Bare`] for pairs of acquire and release, and closures for the rest.

mod handoff;
mod idle;
mod pair;
mod report;
mod waiters;

pub use handoff::hand_off;
pub use idle::{Idle, LOCKS, idle};
pub use pair::{Bare, Pairs, Rate, bare_rate, by_client, by_locker, clients, pairs};
pub use report::{Report, Spread, Target};
pub use waiters::{HOLD, PROCESSES, WAITERS_EACH, sleeps, waiters};

use indicatif::{ProgressBar, ProgressStyle};
use locker_core::Connect;
use std::error::Error;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::Duration;

/// Whatever ends a measurement early.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The store behind a URL.
pub type Opens = fn(&str) -> Result<Arc<dyn Connect>, Failure>;

/// How often everything is measured. The ratio that counts is the median.
pub const ROUNDS: usize = 9;

/// In how many turns with the others each of them makes its pairs of a round: what else the machine does
/// changes within a second, and a round that gave its one half to one of them would measure that.
pub const TURNS: u32 = 8;

/// A run of a benchmark: what is asked for, and what was measured so far.
#[derive(Debug)]
pub struct Measuring {
    /// What is printed at the end.
    pub report: Report,
    /// How long each side of one round is measured.
    pub slice: Duration,
    /// How long ten thousand locks are held.
    pub idle: Duration,
    /// How many cycles a long part has.
    pub cycles: u64,
    parts: Vec<String>,
    opens: Opens,
    bar: ProgressBar,
}

impl Measuring {
    /// Whether a part was asked for; without a word every part is.
    pub fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.asks_for(part)
    }

    /// Whether a part was asked for by its name.
    pub fn asks_for(&self, part: &str) -> bool {
        self.parts.iter().any(|wanted| wanted == part)
    }

    /// Says what is being done.
    pub fn doing(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// The store behind a URL.
    ///
    /// # Errors
    ///
    /// The store's own.
    pub fn open(&self, url: &str) -> Result<Arc<dyn Connect>, Failure> {
        (self.opens)(url)
    }
}

/// Runs a benchmark: reads the command line, measures, and prints the ratios first.
///
/// # Errors
///
/// What a measurement says, or a word of the command line that no part has. What was measured before
/// is printed all the same.
pub fn run(
    parts: &[&str],
    opens: Opens,
    measure: impl AsyncFnOnce(&mut Measuring) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut args = std::env::args().skip(1).peekable();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if args.peek().is_some_and(|arg| arg == waiters::CHILD) {
        let url = args.nth(1).ok_or("the URL is missing")?;
        return runtime.block_on(waiters::child(opens(&url)?));
    }
    let mut measuring = Measuring::from_args(args, parts, opens)?;
    let ended = runtime.block_on(measure(&mut measuring));
    measuring.bar.finish_and_clear();
    // What was measured is worth reading even if the rest failed.
    #[expect(clippy::print_stdout, reason = "it is a program")]
    {
        println!("{}", measuring.report);
    }
    ended
}

impl Measuring {
    fn from_args(
        mut args: Peekable<impl Iterator<Item = String>>,
        parts: &[&str],
        opens: Opens,
    ) -> Result<Self, Failure> {
        let bar = ProgressBar::no_length();
        bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}")?);
        bar.enable_steady_tick(Duration::from_millis(200));
        let mut measuring = Self {
            report: Report::default(),
            slice: Duration::from_secs(1),
            idle: Duration::from_secs(60),
            cycles: 1_000_000,
            parts: Vec::new(),
            opens,
            bar,
        };
        let usage = || {
            let parts = parts.join("] [");
            format!(
                "usage: [{parts}] [--seconds SECONDS] [--idle-seconds SECONDS] [--cycles COUNT]"
            )
        };
        while let Some(arg) = args.next() {
            let mut seconds = || -> Result<Duration, Failure> {
                let seconds = args.next().ok_or_else(usage)?.parse()?;
                Ok(Duration::try_from_secs_f64(seconds)?)
            };
            match arg.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--seconds" => measuring.slice = seconds()?,
                "--idle-seconds" => measuring.idle = seconds()?,
                "--cycles" => measuring.cycles = args.next().ok_or_else(usage)?.parse()?,
                part if parts.contains(&part) => measuring.parts.push(arg),
                _ => return Err(usage().into()),
            }
        }
        Ok(measuring)
    }
}

/// In microseconds, for people.
fn micros(value: Duration) -> f64 {
    value.as_secs_f64() * 1e6
}
