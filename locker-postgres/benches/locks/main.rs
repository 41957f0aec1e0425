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
mod told;

use bare::{Advisory, Rows};
use locker_postgres::Postgres;
use locker_testkit::figures::{self, Failure, Measuring, Target};
use locker_testkit::servers::postgres::Server;
use message::Messages;
use std::sync::Arc;
use told::Told;

const PARTS: [&str; 5] = ["pair", "waiters", "handoff", "idle", "bloat"];

const MANY: usize = 64;

fn main() -> Result<(), Failure> {
    let opens = |url: &str| Ok(Arc::new(Postgres::from_url(url)?) as _);
    figures::run(&PARTS, opens, measure)
}

async fn measure(measuring: &mut Measuring) -> Result<(), Failure> {
    measuring.doing("a server is started");
    let server = Server::start(&[
        "max_connections = 200",
        "shared_preload_libraries = 'pg_stat_statements'",
        "pg_stat_statements.track = top",
    ])?;
    server.sql("CREATE EXTENSION pg_stat_statements")?;
    let url = server.url();
    Postgres::from_url(url)?.migrate().await?;
    if measuring.wants("pair") {
        pairs(measuring, &server).await?;
    }
    if measuring.wants("waiters") {
        figures::waiters(measuring, url, Target::AtMost(1.15)).await?;
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

async fn pairs(measuring: &mut Measuring, server: &Server) -> Result<(), Failure> {
    let url = server.url();
    let rows = Rows::on(url).await?;
    for (tasks, target) in [(1, Target::AtLeast(0.80)), (MANY, Target::AtLeast(4.0))] {
        let store = measuring.open(url)?;
        Told::reset(server)?;
        let pairs = figures::pairs(measuring, "rows", store, &rows, tasks, target).await?;
        let told = Told::by(server)?;
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let mean = 2.0 * pairs.through_locker as f64 / told.claims_and_releases() as f64;
        measuring.report.figure(
            format!("locks a statement, {tasks} task(s)"),
            format!("{mean:.1}"),
        );
        let advisory = Advisory::on(url);
        let rate = figures::bare_rate(measuring, &advisory, tasks).await?;
        measuring.report.figure(
            format!("session advisory locks, {tasks} task(s), for information"),
            format!("{:.0} pairs/s; they touch no disk", rate.median),
        );
    }
    Ok(())
}

async fn idle(measuring: &mut Measuring, server: &Server) -> Result<(), Failure> {
    let look = async || Told::by(server);
    let idle = figures::idle(measuring, server.url(), look).await?;
    let told = idle.after.since(&idle.held);
    let locks = figures::LOCKS;
    measuring.report.figure(
        format!("{locks} idle locks for {} s", measuring.idle.as_secs()),
        told.to_string(),
    );
    Ok(())
}
