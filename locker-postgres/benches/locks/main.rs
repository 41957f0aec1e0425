//! What a lock costs on Postgres: ratios first.
//!
//! Every figure of the locker stands beside one of the bare client, measured in the same run, in
//! turns, on the same server with its default durability: a commit is on the disk. `cargo bench -p
//! locker-postgres` measures everything; a part of it is named, `cargo bench -p locker-postgres --
//! pair --seconds 2`. The server is started from the system's binaries.
//!
//! `bloat` is a part for those who ask for it by name (`-- bloat`, some minutes): a million cycles on
//! a hundred keys, and what the tables have grown to meanwhile.

mod bare;
mod bloat;
mod message;

use bare::{Advisory, Functions, Rows};
use locker_postgres::Postgres;
use locker_testkit::figures::{self, Bare, Failure, Measuring, Target};
use locker_testkit::servers::postgres::Server;
use message::Messages;
use std::sync::Arc;

const PARTS: [&str; 5] = ["pair", "waiters", "handoff", "idle", "bloat"];

const MANY: usize = 64;

/// As many as the callers of one locker have.
const CONNECTIONS: u32 = 4;

fn main() -> Result<(), Failure> {
    let opens = |url: &str| Ok(Arc::new(Postgres::from_url(url)?) as _);
    figures::run(&PARTS, opens, measure)
}

async fn measure(measuring: &mut Measuring) -> Result<(), Failure> {
    measuring.doing("a server is started");
    let server = Server::start_counting(&["max_connections = 200"])?;
    let url = server.url();
    Postgres::from_url(url)?.migrate().await?;
    if measuring.wants("pair") {
        pairs(measuring, &server).await?;
    }
    if measuring.wants("waiters") {
        let mut messages = Messages::open(url).await?;
        let bare = async || messages.hand_off().await;
        figures::waiters(measuring, url, bare, Target::AtMost(1.15)).await?;
    }
    if measuring.wants("handoff") {
        let mut messages = Messages::open(url).await?;
        let bare = async || messages.one().await;
        let message = "NOTIFY -> LISTEN + one commit";
        figures::hand_off(measuring, url, message, bare, Target::AtMost(4.0)).await?;
    }
    if measuring.wants("idle") {
        idle(measuring, &server).await?;
    }
    if measuring.asks_for("bloat") {
        bloat::measure(measuring, &server).await?;
    }
    Ok(())
}

/// The bare client has as many connections as the locker's callers. For information also one for each
/// task, where the server writes the commits of all of them to the disk at once: sixty-four sessions
/// for each process is more than a server has for its clients; and beside the smallest functions that
/// there can be, which says how much of a lone lock's time is the call of a function.
async fn pairs(measuring: &mut Measuring, server: &Server) -> Result<(), Failure> {
    let few = Rows::on(server.url(), CONNECTIONS).await?;
    let one = "rows, 4 connections";
    rounds(measuring, server, one, &few, 1, Target::AtLeast(0.80)).await?;
    rounds(measuring, server, one, &few, MANY, Target::AtLeast(4.0)).await?;
    let many = Rows::on(server.url(), u32::try_from(MANY)?).await?;
    let each = "rows, 64 connections";
    rounds(measuring, server, each, &many, MANY, Target::None).await?;
    let least = Functions::on(server.url(), CONNECTIONS).await?;
    let what = "least functions";
    rounds(measuring, server, what, &least, 1, Target::None).await?;
    let advisory = Advisory::on(server.url());
    for tasks in [1, MANY] {
        measuring.doing(format!("advisory locks, {tasks} tasks"));
        let rate = figures::bare_rate(measuring, &advisory, tasks).await?;
        measuring.report.figure(
            format!("session advisory locks, {tasks} task(s), for information"),
            format!("{:.0} pairs/s; they touch no disk", rate.median),
        );
    }
    Ok(())
}

async fn rounds(
    measuring: &mut Measuring,
    server: &Server,
    what: &str,
    bare: &impl Bare,
    tasks: usize,
    target: Target,
) -> Result<(), Failure> {
    let store = measuring.open(server.url())?;
    let before = server.statements()?;
    let pairs = figures::pairs(measuring, what, store, bare, tasks, target).await?;
    let told = server.statements()?.since(&before);
    let calls = ["try_create", "release", "release_and_try_create"].map(|name| told.of(name));
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    let mean = 2.0 * pairs.through_locker as f64 / calls.iter().sum::<u64>() as f64;
    measuring.report.figure(
        format!("locks a statement, {what}, {tasks} task(s)"),
        format!("{mean:.1}"),
    );
    Ok(())
}

async fn idle(measuring: &mut Measuring, server: &Server) -> Result<(), Failure> {
    let look = async || Ok(server.statements()?);
    let idle = figures::idle(measuring, server.url(), look).await?;
    let told = idle.after.since(&idle.held);
    let locks = figures::LOCKS;
    measuring.report.figure(
        format!("{locks} idle locks for {} s", measuring.idle.as_secs()),
        told.to_string(),
    );
    Ok(())
}
