//! A connection that outlives its server's time as the master: `FAILOVER`, or a `REPLICAOF` by hand,
//! closes no connection. What such a server holds may be old, so nothing that it says is final.

use super::*;
use locker_core::backend::Force;
use locker_core::{Effect, ErrorKind};
use locker_testkit::servers::redis::Replicated;
use std::fmt::Debug;

fn refused<T: Debug>(answer: Result<T, BackendError>, what: &str) {
    let error = answer.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error:?}");
    assert_eq!(error.effect(), Effect::NotApplied, "{what}: {error:?}");
}

/// S3, S7: a release that finds nothing on a former master has settled nothing, a process that is
/// missing there is not dead, and a lock that is missing there is not lost.
#[tokio::test]
async fn a_former_master_settles_nothing_and_calls_nobody_dead() {
    let servers = Replicated::start(&Setup::new(), 1).unwrap();
    let old = Process::born(servers.url(), "ns").await;
    // It dies on the former master only.
    let brief = Process::unborn(servers.url(), "ns").await;
    let short = Duration::from_millis(50);
    brief
        .backend
        .create_process(&brief.hash, short)
        .await
        .unwrap();
    let replica = &servers.replicas()[0];
    until("the replica has the process", async || {
        let name = format!("ns:process:{}", brief.hash);
        replica.command(&["EXISTS", &name]).unwrap() == "1"
    })
    .await;
    replica.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    // A link that is down: what it holds stays as it is.
    servers
        .master()
        .command(&["REPLICAOF", "127.0.0.1", "1"])
        .unwrap();

    let new = Process::born(&format!("redis://127.0.0.1:{}", replica.port()), "ns").await;
    let owner = new.acquire("k").await;
    until("its time has passed", async || {
        new.backend.read_process(&brief.hash).await.unwrap().value
            == locker_core::backend::Liveness::Dead
    })
    .await;

    let stale = &old.backend;
    let past = StoreTime::from_micros(1);
    refused(stale.settle(&owner, past).await, "a settlement");
    refused(stale.release(&owner).await, "a release");
    refused(stale.force_release(&owner, Force::Mark).await, "a mark");
    let owners = [owner.clone()];
    refused(stale.check(&owners).await, "a check");
    refused(stale.extend(&owners, LONG).await, "an extension");
    refused(stale.read_lock(&key("k")).await, "a read");
    refused(stale.renew_process(&new.hash, LONG).await, "a renewal");
    refused(stale.retire_process(&new.hash).await, "a retirement");
    refused(stale.read_process(&new.hash).await, "an absent process");
    refused(stale.read_process(&brief.hash).await, "an expired process");
    refused(stale.create_process(&new.hash, LONG).await, "a birth");
}
