//! What a lock costs on Redis: ratios first.
//!
//! Every figure of the locker stands beside one of the bare client, measured in the same run, in
//! turns, on the same kind of connection: the machine and its other guests change from minute to
//! minute, a ratio does not. `cargo bench -p locker-redis` measures everything; a part of it is
//! named, `cargo bench -p locker-redis -- pair --seconds 0.2`. The servers are started from the
//! system's binaries.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

mod handoff;
mod idle;
mod pair;
mod raw;
mod stats;
mod waiters;

use indicatif::{ProgressBar, ProgressStyle};
use locker_testkit::servers::redis::{Cluster, Server, Setup};
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
}

const PARTS: [&str; 5] = ["pair", "cluster", "waiters", "handoff", "idle"];

const USAGE: &str = "usage: locks [pair] [cluster] [waiters] [handoff] [idle] \
                     [--seconds SECONDS] [--idle-seconds SECONDS]";

impl Plan {
    fn from_args(args: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut plan = Self {
            parts: Vec::new(),
            slice: Duration::from_millis(500),
            idle: Duration::from_secs(60),
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
                part if PARTS.contains(&part) => plan.parts.push(arg),
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

/// A server as it is installed. The log of the kit's own would weigh on both sides, unequally: it holds
/// every command that a script has called.
fn setup() -> Setup {
    Setup::new().line("appendonly no")
}

async fn measure(plan: &Plan, bar: &ProgressBar, report: &mut Report) -> Result<(), Failure> {
    if PARTS
        .iter()
        .any(|part| *part != "cluster" && plan.wants(part))
    {
        bar.set_message("a server is started");
        let server = Server::start(&setup())?;
        let url = server.url();
        if plan.wants("pair") {
            pair::measure(url, "one server", [0.80, 0.90], plan.slice, bar, report).await?;
        }
        if plan.wants("waiters") {
            waiters::measure(url, bar, report).await?;
        }
        if plan.wants("handoff") {
            handoff::measure(url, bar, report).await?;
        }
        if plan.wants("idle") {
            idle::measure(url, plan.idle, bar, report).await?;
        }
    }
    if plan.wants("cluster") {
        bar.set_message("a cluster is started");
        let cluster = Cluster::start(&setup(), 3, 0)?;
        let url = cluster.url();
        pair::measure(url, "cluster of 3", [0.0, 0.55], plan.slice, bar, report).await?;
    }
    Ok(())
}
