//! Plays histories of the simulation, or one of them with everything that happened in it.
//!
//! ```console
//! cargo run -p locker-testkit --example simulate -- --histories 100000
//! cargo run -p locker-testkit --example simulate -- --seed 4711 --histories 1
//! cargo run -p locker-testkit --example simulate -- --mutant "two-step take-over"
//! ```
//!
//! It ends with 1 when a promise was broken, and shows the history with the smallest such seed.

use indicatif::{ProgressBar, ProgressStyle};
use locker_testkit::sim::mutants::MUTANTS;
use locker_testkit::sim::{SHIPPED, Subject, campaign, run};
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

struct Wanted {
    seed: u64,
    histories: u64,
    subject: Subject,
}

fn wanted() -> Result<Wanted, String> {
    let mut wanted = Wanted {
        seed: 0,
        histories: 20_000,
        subject: SHIPPED,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        let number = || {
            value
                .parse()
                .map_err(|_| format!("{value:?} is not a number"))
        };
        match option.as_str() {
            "--seed" => wanted.seed = number()?,
            "--histories" => wanted.histories = number()?,
            "--mutant" => {
                let named = MUTANTS.into_iter().find(|mutant| mutant.name == value);
                wanted.subject = named.ok_or(format!("there is no mutant {value:?}"))?;
            }
            _ => return Err(format!("{option} is not --seed, --histories or --mutant")),
        }
    }
    Ok(wanted)
}

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let wanted = match wanted() {
        Ok(wanted) => wanted,
        Err(error) => {
            let _ = writeln!(out, "{error}");
            return ExitCode::from(64);
        }
    };
    let failed = if wanted.histories == 1 {
        show(&mut out, wanted.seed, wanted.subject)
    } else {
        play(&mut out, &wanted)
    };
    // A reader that has gone away is no reason to complain.
    ExitCode::from(u8::from(failed.unwrap_or(false)))
}

fn play(out: &mut impl Write, wanted: &Wanted) -> std::io::Result<bool> {
    let bar = ProgressBar::new(wanted.histories);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} histories, {per_sec}, {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let seeds = wanted.seed..wanted.seed.saturating_add(wanted.histories);
    let began = Instant::now();
    let campaign = campaign::play(seeds, wanted.subject, |_| bar.inc(1));
    bar.finish_and_clear();
    writeln!(out, "{campaign}")?;
    writeln!(out, "{:>12.1?} in all", began.elapsed())?;
    match &campaign.worst {
        None => Ok(false),
        Some(worst) => show(out, worst.seed, wanted.subject),
    }
}

fn show(out: &mut impl Write, seed: u64, subject: Subject) -> std::io::Result<bool> {
    let run = run(seed, subject, true);
    for line in run.history.lines() {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "seed {seed} ({}), digest {:016x}",
        subject.name,
        run.history.digest()
    )?;
    Ok(run.violation.is_some())
}
