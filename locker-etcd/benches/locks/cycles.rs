//! Two lockers that acquire, wait, release, drop and cancel, a million times, on a server that
//! compacts itself; and what has grown meanwhile, in this process and at the server (L8).

use distributed_locker::Timing;
use locker_testkit::figures::{Failure, Measuring};
use locker_testkit::servers::etcd::{Server, Setup};
use locker_testkit::soak::{self, Cycles};
use std::time::Instant;

#[path = "../../tests/common/upkeep.rs"]
mod upkeep;

use upkeep::{Upkeep, compacting};

/// How often the bar moves.
const STEPS: u64 = 100;

pub(crate) async fn measure(measuring: &mut Measuring) -> Result<(), Failure> {
    let cycles = measuring.cycles;
    let server = Server::start(&compacting(Setup::new()))?;
    let (one, other) = (measuring.open(server.url())?, measuring.open(server.url())?);
    let running = Cycles::start([one, other], Timing::default(), 1).await?;
    let began = Instant::now();
    let mut early = None;
    for step in 1..=STEPS {
        running.run_to(cycles * step / STEPS).await;
        let (done, grants) = running.done();
        measuring.doing(format!("{done} of {cycles} cycles, {grants} grants"));
        if step == STEPS / 10 {
            early = Some((running.at_rest().await, Upkeep::of(&server).await?));
        }
    }
    let (late, at_server) = (running.at_rest().await, Upkeep::of(&server).await?);
    let early_here = early.as_ref().map(|(here, _)| *here);
    let found = soak::Report::of(&running, began.elapsed(), early_here, late);
    measuring
        .report
        .figure(format!("{cycles} cycles"), found.to_string());
    if let Some((_, early)) = &early {
        measuring
            .report
            .figure("the server at one tenth", early.to_string());
    }
    measuring
        .report
        .figure("the server at the end", at_server.to_string());
    let mut findings = found.findings();
    if let Some((_, early)) = &early {
        findings.extend(at_server.grown_since(early));
    }
    if findings.is_empty() {
        Ok(())
    } else {
        Err(findings.join("; ").into())
    }
}
