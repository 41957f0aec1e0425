//! L8 on etcd, in short: cycles without end leave nothing behind, in the process or at the server.
//! Its long form is `cargo bench -p locker-etcd -- cycles`.
//!
//! It is alone in its program, because descriptors, threads and memory of the process are counted.
// Tests may unwrap, also in what they share.
#![allow(clippy::unwrap_used)]

#[path = "common/upkeep.rs"]
mod upkeep;

use locker_etcd::Etcd;
use locker_testkit::scaled;
use locker_testkit::servers::etcd::{Server, Setup};
use locker_testkit::soak::{Cycles, Report};
use std::sync::Arc;
use std::time::{Duration, Instant};
use upkeep::{Upkeep, compacting};

/// What there is before the first comparison warms caches, allocators and pools.
const EARLY: u64 = 300;
const ALL: u64 = 1_200;

#[tokio::test]
async fn cycles_leave_nothing_behind_in_the_process_or_at_the_server() {
    let server = Server::start(&compacting(Setup::new()))
        .unwrap_or_else(|missing| panic!("there is no store to test: {missing}"));
    let store = || Arc::new(Etcd::from_url(server.url()).unwrap());
    let timing = scaled(Duration::from_secs(5));
    let cycles = Cycles::start([store(), store()], timing, 1).await.unwrap();
    let began = Instant::now();
    cycles.run_to(EARLY).await;
    let early = (cycles.at_rest().await, Upkeep::of(&server).await.unwrap());
    cycles.run_to(ALL).await;
    let late = (cycles.at_rest().await, Upkeep::of(&server).await.unwrap());
    let report = Report::of(&cycles, began.elapsed(), Some(early.0), late.0);
    println!("{report}");
    println!("the server before: {}", early.1);
    println!("the server after:  {}", late.1);
    let mut findings = report.findings();
    findings.extend(late.1.grown_since(&early.1));
    assert!(findings.is_empty(), "{findings:#?}");
}
