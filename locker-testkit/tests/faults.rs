//! The fault table, each applicable case once: four worker processes, two keys, scaled times.

use locker_testkit::harness::deployment::{self, Cell};
use locker_testkit::harness::fault::Fault;
use locker_testkit::harness::report::{not_run, table};
use locker_testkit::harness::run::{Options, Outcome, plan, run_all};
use std::path::PathBuf;

#[test]
fn every_cell_is_run_or_says_why_not() {
    for deployment in deployment::ALL {
        for fault in Fault::all() {
            match deployment.cell(fault) {
                Cell::Run(cases) => assert!(!cases.is_empty(), "{fault}: no case"),
                Cell::ShownBy(why) | Cell::DoesNotApply(why) => {
                    assert!(why.len() > 20, "{fault} on {}: {why:?}", deployment.name());
                }
            }
        }
    }
    println!("{}", table::cells(&not_run(deployment::ALL)));
}

#[test]
fn every_case_keeps_the_promises() {
    let seed = std::env::var("LOCKER_FAULTS_SEED");
    let options = Options {
        program: PathBuf::from(env!("CARGO_BIN_EXE_locker-faults")),
        evidence: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("locker-faults"),
        seed: seed.ok().and_then(|seed| seed.parse().ok()).unwrap_or(1),
        full: false,
        jobs: 2,
    };
    let planned = plan(deployment::ALL, &[], options.full);
    let reports = run_all(
        &planned,
        &options,
        |_| (),
        |report| {
            println!("{}", table::line(report, 12));
        },
    );
    println!("{}", table::table(&reports));
    let bad: Vec<&str> = reports
        .iter()
        .filter(|report| report.outcome != Outcome::Passed)
        .map(|report| report.name.as_str())
        .collect();
    assert!(
        bad.is_empty(),
        "{bad:?}; the table above says why, and how to run them again"
    );
}
