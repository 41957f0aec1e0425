//! The fault table, each applicable case once: four worker processes, two keys, scaled times.
//!
//! One test for each store, so that a change to one of them need not wait for the others. They take
//! turns: what they measure is times.

#![allow(clippy::print_stdout, reason = "the table is what one runs it for")]

use locker_testkit::harness::deployment::{self, Cell};
use locker_testkit::harness::fault::Fault;
use locker_testkit::harness::report::{not_run, table};
use locker_testkit::harness::run::{Options, Outcome, plan, run_all};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

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
fn every_deployment_is_in_a_test() {
    let all: Vec<&str> = deployment::ALL.iter().map(|one| one.name()).collect();
    let tested = [SQLITE, REDIS, POSTGRES, ETCD].concat();
    let tested: Vec<&str> = tested
        .into_iter()
        .filter(|name| all.contains(name))
        .collect();
    assert_eq!(tested, all);
}

const SQLITE: &[&str] = &["sqlite"];
const REDIS: &[&str] = &["redis", "redis-sentinel", "redis-cluster"];
const POSTGRES: &[&str] = &["postgres", "postgres-standby", "pgbouncer"];
const ETCD: &[&str] = &["etcd", "etcd-cluster"];

#[test]
fn every_case_keeps_the_promises_on_sqlite() {
    keeps_the_promises(SQLITE);
}

#[test]
fn every_case_keeps_the_promises_on_redis() {
    keeps_the_promises(REDIS);
}

#[test]
fn every_case_keeps_the_promises_on_postgres() {
    keeps_the_promises(POSTGRES);
}

#[cfg(feature = "etcd")]
#[test]
fn every_case_keeps_the_promises_on_etcd() {
    keeps_the_promises(ETCD);
}

fn keeps_the_promises(names: &[&str]) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = std::env::var("LOCKER_FAULTS_SEED");
    let options = Options {
        program: PathBuf::from(env!("CARGO_BIN_EXE_locker-faults")),
        evidence: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("locker-faults"),
        seed: seed.ok().and_then(|seed| seed.parse().ok()).unwrap_or(1),
        full: false,
        jobs: 3,
    };
    let begun = Instant::now();
    let deployments: Vec<_> = names
        .iter()
        .filter_map(|name| deployment::find(name))
        .collect();
    assert_eq!(deployments.len(), names.len(), "{names:?}");
    let planned = plan(&deployments, &[], options.full);
    let reports = run_all(
        &planned,
        &options,
        |_| (),
        |report| println!("{}", table::progress(report)),
    );
    println!("{}", table::table(&reports));
    println!("{} cases in {:.0?}", reports.len(), begun.elapsed());
    let bad: Vec<String> = reports
        .iter()
        .filter(|report| report.outcome != Outcome::Passed)
        .map(|report| {
            let (failures, replay) = (report.failures.join("; "), &report.replay);
            let (where_, what) = (report.deployment, &report.name);
            format!("{where_} {what}: {failures}\n    again: {replay}")
        })
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
