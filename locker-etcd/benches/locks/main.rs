//! What a lock costs on etcd: ratios first.
//!
//! Every figure of the locker stands beside one of the bare client, measured in the same run, in
//! turns, on the same kind of connection: the machine and its other guests change from minute to
//! minute, a ratio does not. `cargo bench -p locker-etcd` measures everything; a part of it is
//! named, `cargo bench -p locker-etcd -- pair --seconds 0.2`. The server is started from the system's
//! binary.
//!
//! `cycles` is measured only when it is named: a million cycles of two lockers on a server that
//! compacts itself, and what has grown meanwhile (L8). It takes the better part of an hour;
//! `--cycles 20000` makes it shorter.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

mod cycles;
mod handoff;
mod idle;
mod pair;
mod raw;
mod stats;
mod waiters;

use indicatif::{ProgressBar, ProgressStyle};
use locker_testkit::servers::etcd::{Server, Setup};
use stats::Report;
use std::error::Error;
use std::time::Duration;

type Failure = Box<dyn Error + Send + Sync>;

const ROUNDS: usize = 9;

/// What is measured, and for how long.
#[derive(Debug, Clone)]
struct Plan {
    parts: Vec<String>,
    /// One measurement of one round.
    slice: Duration,
    /// How long ten thousand locks are held.
    idle: Duration,
    /// How many cycles there are, where they are wanted.
    cycles: u64,
}

/// What is measured when nothing is named.
const PARTS: [&str; 4] = ["pair", "waiters", "handoff", "idle"];
const CYCLES: &str = "cycles";

const USAGE: &str = "usage: locks [pair] [waiters] [handoff] [idle] [cycles] \
                     [--seconds SECONDS] [--idle-seconds SECONDS] [--cycles COUNT]";

impl Plan {
    fn from_args(args: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut plan = Self {
            parts: Vec::new(),
            slice: Duration::from_millis(500),
            idle: Duration::from_secs(60),
            cycles: 1_000_000,
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            let mut seconds = || -> Result<Duration, Failure> {
                Ok(Duration::try_from_secs_f64(
                    args.next().ok_or(USAGE)?.parse()?,
                )?)
            };
            match arg.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--seconds" => plan.slice = seconds()?,
                "--idle-seconds" => plan.idle = seconds()?,
                "--cycles" => plan.cycles = args.next().ok_or(USAGE)?.parse()?,
                part if PARTS.contains(&part) || part == CYCLES => plan.parts.push(arg),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1).peekable();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if args.peek().is_some_and(|arg| arg == waiters::CHILD) {
        let args: Vec<_> = args.skip(1).collect();
        return runtime.block_on(waiters::child(&args));
    }
    let plan = Plan::from_args(args)?;
    let bar = ProgressBar::no_length();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut report = Report::default();
    let ended = runtime.block_on(measure(&plan, &bar, &mut report));
    bar.finish_and_clear();
    // What was measured is worth reading even if the rest failed.
    println!("{report}");
    ended
}

async fn measure(plan: &Plan, bar: &ProgressBar, report: &mut Report) -> Result<(), Failure> {
    if plan.parts.iter().any(|part| part == CYCLES) {
        cycles::measure(plan.cycles, bar, report).await?;
    }
    if !PARTS.iter().any(|part| plan.wants(part)) {
        return Ok(());
    }
    bar.set_message("a server is started");
    let server = Server::start(&Setup::new())?;
    let url = server.url();
    if plan.wants("pair") {
        pair::measure(&server, plan.slice, bar, report).await?;
    }
    if plan.wants("waiters") {
        waiters::measure(url, bar, report).await?;
    }
    if plan.wants("handoff") {
        handoff::measure(url, bar, report).await?;
    }
    if plan.wants("idle") {
        idle::measure(&server, plan.idle, bar, report).await?;
    }
    Ok(())
}
