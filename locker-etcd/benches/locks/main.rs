//! What a lock costs on etcd: ratios first.
//!
//! Every figure of the locker stands beside one of the bare client, measured in the same run, in
//! turns, on the same kind of connection: the machine and its other guests change from minute to
//! minute, a ratio does not. `cargo bench -p locker-etcd` measures everything; a part of it is
//! named, `cargo bench -p locker-etcd -- pair --seconds 0.2`. The server is started from the system's
//! binary.
//!
//! `cycles` is measured only when it is named: a million cycles of two lockers on a server that
//! compacts itself, and what has grown meanwhile (L8). It takes the better part of an hour;
//! `--cycles 20000` makes it shorter.

mod cycles;
mod idle;
mod message;
mod pair;
mod raw;
mod waiters;

use locker_etcd::Etcd;
use locker_testkit::figures::{self, Failure, Measuring, Target};
use locker_testkit::servers::etcd::{Server, Setup};
use message::Messages;
use std::sync::Arc;

/// The last one is measured only when it is named.
const PARTS: [&str; 5] = ["pair", "waiters", "handoff", "idle", "cycles"];

fn main() -> Result<(), Failure> {
    let opens = |url: &str| Ok(Arc::new(Etcd::from_url(url)?) as _);
    figures::run(&PARTS, opens, measure)
}

async fn measure(measuring: &mut Measuring) -> Result<(), Failure> {
    if measuring.asks_for("cycles") {
        cycles::measure(measuring).await?;
    }
    let [parts @ .., _] = PARTS;
    if !parts.iter().any(|part| measuring.wants(part)) {
        return Ok(());
    }
    measuring.doing("a server is started");
    let server = Server::start(&Setup::new())?;
    let url = server.url();
    if measuring.wants("pair") {
        pair::measure(measuring, &server).await?;
    }
    if measuring.wants("waiters") {
        let mut messages = Messages::open(url).await?;
        let bare = async || messages.hand_off().await;
        figures::waiters(measuring, url, bare, Target::AtMost(1.25)).await?;
        waiters::by_service(measuring, url).await?;
    }
    if measuring.wants("handoff") {
        let mut messages = Messages::open(url).await?;
        let bare = async || messages.one().await;
        figures::hand_off(measuring, url, "put -> watch", bare, Target::AtMost(3.0)).await?;
    }
    if measuring.wants("idle") {
        idle::measure(measuring, &server).await?;
    }
    Ok(())
}
