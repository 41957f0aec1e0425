//! Does to the locker what machines, processes and stores do, and judges what is left of its
//! promises.
//!
//! `locker-faults` runs the cases; the same program becomes the workers of a case and the writer
//! that hogs a store.

use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use locker_testkit::harness::deployment::{self, Deployment};
use locker_testkit::harness::report::{Report, not_run, table};
use locker_testkit::harness::run::{Options, Outcome, plan, run_all};
use locker_testkit::harness::worker;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(
    about = "Runs the locker under faults, and judges what it did",
    version
)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Only these faults or cases: `F03`, `F13 3 T`
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Only these deployments
    #[arg(long, value_name = "NAME")]
    deployment: Vec<String>,
    /// Each case once, or all the time that it takes
    #[arg(long, value_enum, default_value_t = Tier::Ci)]
    tier: Tier,
    /// Of all random choices; printed, and random if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// How many cases run at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Where the evidence of each case is kept
    #[arg(long, default_value = "target/locker-faults")]
    evidence: PathBuf,
    /// One JSON document on stdout instead of a table
    #[arg(long)]
    json: bool,
    /// Lists the cases and the cells that are not run, and does nothing
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    Ci,
    Full,
}

#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Worker { config: String },
    #[command(hide = true)]
    Hog { path: PathBuf },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.role {
        Some(Role::Worker { config }) => match serde_json::from_str(config) {
            Ok(config) => worker::main(config),
            Err(_) => ExitCode::from(64),
        },
        Some(Role::Hog { path }) => deployment::sqlite::hog(path),
        None => match run(&arguments) {
            Ok(code) => code,
            Err(error) => {
                say(&format!("locker-faults: {error}"));
                ExitCode::from(64)
            }
        },
    }
}

#[expect(clippy::print_stderr, reason = "a program speaks to its user")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "a report is what the program is for")]
fn print(text: &str) {
    println!("{text}");
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut deployments: Vec<&'static dyn Deployment> = deployment::ALL.to_vec();
    if !arguments.deployment.is_empty() {
        deployments = Vec::new();
        for name in &arguments.deployment {
            let found = deployment::find(name);
            deployments.push(found.ok_or_else(|| format!("there is no deployment {name}"))?);
        }
    }
    let planned = plan(&deployments, &arguments.only, arguments.tier == Tier::Full);
    if arguments.list {
        for one in &planned {
            let (fault, name) = (one.fault, one.name());
            print(&format!("{name}: {} → {}", fault.title(), fault.expected()));
        }
        print(&table::cells(&not_run(&deployments)));
        return Ok(ExitCode::SUCCESS);
    }
    if planned.is_empty() {
        return Err("no case has this name; `--list` shows them".into());
    }
    let options = Options {
        program: std::env::current_exe()?,
        evidence: arguments.evidence.clone(),
        seed: arguments.seed.unwrap_or_else(random_seed),
        full: arguments.tier == Tier::Full,
        jobs: arguments.jobs,
    };
    let bars = MultiProgress::new();
    let bar = bars.add(ProgressBar::new(planned.len() as u64));
    let style = "{bar:30} {pos}/{len}  {elapsed}  {msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let reports = run_all(
        &planned,
        &options,
        |one| bar.set_message(format!("{}: {}", one.name(), one.fault.title())),
        |report| {
            bar.inc(1);
            if report.outcome != Outcome::Passed {
                let _ = bars.println(table::progress(report));
            }
        },
    );
    bar.finish_and_clear();
    let cells = not_run(&deployments);
    if arguments.json {
        let report = Report {
            seed: options.seed,
            cases: &reports,
            cells,
        };
        print(&serde_json::to_string_pretty(&report)?);
    } else {
        print(&table::table(&reports));
        if arguments.only.is_empty() {
            print(&table::cells(&cells));
        }
        print(&format!(
            "seed {}; evidence in {}",
            options.seed,
            options.evidence.display()
        ));
    }
    let good = reports
        .iter()
        .all(|report| report.outcome == Outcome::Passed);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn random_seed() -> u64 {
    locker_testkit::harness::times::micros() % 1_000_000
}
