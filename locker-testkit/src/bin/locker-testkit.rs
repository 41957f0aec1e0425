//! `locker-testkit soak --store URL --hours H`: locks without end, and says what it cost.
//!
//! Ctrl-C ends it at any time, with its report. It ends with 0 if nothing was found, with 1 if
//! something was, and with 69 if the store cannot be had.

use clap::{Parser, Subcommand};
use distributed_locker::{Timing, connect};
use indicatif::{ProgressBar, ProgressStyle};
use locker_testkit::scaled;
use locker_testkit::soak::{Cycles, Report};
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Attacks stores of Locker.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Acquires, releases and cancels without end; what the process needs must not grow.
    Soak(Soak),
}

#[derive(Debug, clap::Args)]
struct Soak {
    /// The store, for instance `sqlite:/tmp/soak.db`.
    #[arg(long)]
    store: String,
    /// For how many hours; decimals are welcome.
    #[arg(long, default_value_t = 1.0, value_parser = hours)]
    hours: f64,
    /// Two random faults at a time, again and again.
    #[arg(long)]
    faults: bool,
    /// Makes the same random choices again.
    #[arg(long)]
    seed: Option<u64>,
}

fn hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if hours > 0.0 && hours <= 10_000.0 => Ok(hours),
        _ => Err("a number of hours, more than 0 and at most 10000".to_owned()),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let Command::Soak(soak) = Arguments::parse().command;
    match run(&soak).await {
        Ok(report) => {
            say(&report.to_string());
            ExitCode::from(u8::from(!report.findings().is_empty()))
        }
        Err(error) => {
            say(&format!("the soak could not begin: {error}"));
            ExitCode::from(69)
        }
    }
}

#[allow(clippy::print_stdout, reason = "the report is what the program is for")]
fn say(text: &str) {
    println!("{text}");
}

/// Times that are short enough for faults to matter.
fn timing() -> Timing {
    let t = Duration::from_secs(2);
    Timing {
        lock_ttl: t * 15,
        extend_every: t * 2,
        ..scaled(t)
    }
}

async fn run(soak: &Soak) -> Result<Report, Box<dyn Error>> {
    let seed = soak.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let store = [connect(&soak.store)?, connect(&soak.store)?];
    let cycles = Cycles::start(store, timing(), seed).await?;
    let lasting = Duration::from_secs_f64(soak.hours * 3600.0);
    say(&format!(
        "seed {seed}, {} s; Ctrl-C ends it with its report",
        lasting.as_secs()
    ));
    let bar = ProgressBar::new(lasting.as_secs().max(1)).with_style(ProgressStyle::with_template(
        "{elapsed_precise} [{wide_bar}] {percent} % {msg}",
    )?);
    let began = Instant::now();
    let mut early = None;
    let stopped = tokio::signal::ctrl_c();
    tokio::pin!(stopped);
    while began.elapsed() < lasting {
        let left = lasting.saturating_sub(began.elapsed());
        let slice = left.min(lasting / 20).min(Duration::from_secs(5));
        let work = async {
            if soak.faults {
                cycles.troubles().run(slice / 2).await;
            }
            tokio::time::sleep(slice).await;
        };
        let is_over = tokio::select! {
            biased;
            _ = &mut stopped => true,
            () = work => false,
            () = cycles.run_to(u64::MAX - 1_000) => false,
        };
        let (done, _) = cycles.done();
        bar.set_position(began.elapsed().as_secs());
        bar.set_message(format!("{done} cycles, {} errors", cycles.errors()));
        if is_over {
            break;
        }
        if early.is_none() && began.elapsed() >= lasting / 10 {
            early = Some(cycles.at_rest().await);
        }
    }
    let took = began.elapsed();
    let late = cycles.at_rest().await;
    bar.finish_and_clear();
    Ok(Report::of(&cycles, took, early, late))
}
