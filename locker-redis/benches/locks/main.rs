//! What a lock costs on Redis: ratios first.
//!
//! Every figure of the locker stands beside one of the bare client, measured in the same run, in
//! turns, on the same kind of connection: the machine and its other guests change from minute to
//! minute, a ratio does not. `cargo bench -p locker-redis` measures everything; a part of it is
//! named, `cargo bench -p locker-redis -- pair --seconds 0.2`. The servers are started from the
//! system's binaries.

mod idle;
mod message;
mod raw;

use locker_redis::Redis;
use locker_testkit::figures::{self, Failure, Measuring, Target};
use locker_testkit::servers::redis::{Cluster, Server, Setup};
use message::Messages;
use raw::{Least, Raw};
use std::sync::Arc;

const PARTS: [&str; 5] = ["pair", "cluster", "waiters", "handoff", "idle"];

const MANY: usize = 64;

fn main() -> Result<(), Failure> {
    figures::run(&PARTS, |url| Ok(Arc::new(Redis::from_url(url)?)), measure)
}

/// A server as it is installed. The log of the kit's own would weigh on both sides, unequally: it holds
/// every command that a script has called.
fn setup() -> Setup {
    Setup::new().line("appendonly no")
}

async fn measure(measuring: &mut Measuring) -> Result<(), Failure> {
    if PARTS
        .iter()
        .any(|part| *part != "cluster" && measuring.wants(part))
    {
        measuring.doing("a server is started");
        let server = Server::start(&setup())?;
        let url = server.url();
        if measuring.wants("pair") {
            let targets = [Target::AtLeast(0.80), Target::AtLeast(0.90)];
            pairs(measuring, url, "one server", targets).await?;
            // How much of it is the record itself.
            let least = Least::open(url).await?;
            for tasks in [1, MANY] {
                let store = measuring.open(url)?;
                let what = "smallest scripts with a token";
                figures::pairs(measuring, what, store, &least, tasks, Target::None).await?;
            }
        }
        if measuring.wants("waiters") {
            let mut messages = Messages::open(url).await?;
            let bare = async || messages.hand_off().await;
            figures::waiters(measuring, url, bare, Target::AtMost(1.10)).await?;
        }
        if measuring.wants("handoff") {
            let mut messages = Messages::open(url).await?;
            let bare = async || messages.one().await;
            let message = "PUBLISH -> SUBSCRIBE";
            figures::hand_off(measuring, url, message, bare, Target::AtMost(4.0)).await?;
        }
        if measuring.wants("idle") {
            idle::measure(measuring, url).await?;
        }
    }
    if measuring.wants("cluster") {
        measuring.doing("a cluster is started");
        let cluster = Cluster::start(&setup(), 3, 0)?;
        let targets = [Target::None, Target::AtLeast(0.55)];
        pairs(measuring, cluster.url(), "cluster of 3", targets).await?;
    }
    Ok(())
}

async fn pairs(
    measuring: &mut Measuring,
    url: &str,
    deployment: &str,
    targets: [Target; 2],
) -> Result<(), Failure> {
    let raw = Raw::open(url).await?;
    for (tasks, target) in [1, MANY].into_iter().zip(targets) {
        let store = measuring.open(url)?;
        figures::pairs(measuring, deployment, store, &raw, tasks, target).await?;
    }
    Ok(())
}
