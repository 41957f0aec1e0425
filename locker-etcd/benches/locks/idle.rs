//! Ten thousand locks that are held and do nothing: what they cost the server.

use crate::Failure;
use crate::stats::Report;
use distributed_locker::{AcquireOptions, Locker};
use indicatif::ProgressBar;
use locker_etcd::Etcd;
use locker_testkit::servers::etcd::Server;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LOCKS: usize = 10_000;
const TASKS: usize = 64;

pub(crate) async fn measure(
    server: &Server,
    held_for: Duration,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), Failure> {
    let locker = Locker::builder(Arc::new(Etcd::from_url(server.url())?))
        .start()
        .await?;
    let before = Info::read(server)?;
    bar.set_message(format!("{LOCKS} locks are acquired"));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let locker = locker.clone();
            tokio::spawn(async move {
                let mut guards = Vec::new();
                for lock in (task..LOCKS).step_by(TASKS) {
                    let options = AcquireOptions::new();
                    let acquired = locker
                        .acquire(format!("bench-idle-{lock}"), options)
                        .await?;
                    guards.push(acquired.guard().ok_or("a free lock is held")?);
                }
                Ok::<_, Failure>(guards)
            })
        })
        .collect();
    let mut guards = Vec::new();
    for task in tasks {
        guards.extend(task.await??);
    }
    let took = begun.elapsed();
    let held = Info::read(server)?;
    for second in 0..held_for.as_secs() {
        bar.set_message(format!("{LOCKS} locks are held: {second} s"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_nanos(held_for.subsec_nanos().into())).await;
    let after = Info::read(server)?;
    let valid = guards.iter().filter(|guard| guard.is_valid()).count();
    report.figure(
        format!("{LOCKS} locks by {TASKS} tasks"),
        format!(
            "acquired in {:.2} s, by {} transactions",
            took.as_secs_f64(),
            held.transactions - before.transactions
        ),
    );
    report.figure(
        format!("{LOCKS} idle locks for {} s", held_for.as_secs()),
        format!(
            "{valid} valid at the end; {} transactions, {} reads, {} keep-alives, {} revisions, \
             {:.2} s of the server's processor time",
            after.transactions - held.transactions,
            after.reads - held.reads,
            after.keep_alives - held.keep_alives,
            after.revision - held.revision,
            after.processor_secs - held.processor_secs
        ),
    );
    bar.set_message("the locks are released");
    drop(guards);
    locker.terminate(Duration::from_secs(30)).await?;
    Ok(())
}

/// What the server says of itself.
struct Info {
    transactions: u64,
    reads: u64,
    keep_alives: u64,
    revision: u64,
    processor_secs: f64,
}

impl Info {
    fn read(server: &Server) -> Result<Self, Failure> {
        let member = server.member();
        let handled = |method: &str| {
            let name = format!(
                "grpc_server_handled_total{{grpc_code=\"OK\",grpc_method=\"{method}\",\
                 grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}}"
            );
            // A counter is there from its first event on.
            let value = member.metric(&name);
            value.map_or(Ok(0), |value| value.parse())
        };
        let keep_alives = member.metric(
            "grpc_server_msg_received_total{grpc_method=\"LeaseKeepAlive\",\
             grpc_service=\"etcdserverpb.Lease\",grpc_type=\"bidi_stream\"}",
        );
        Ok(Self {
            transactions: handled("Txn")?,
            reads: handled("Range")?,
            keep_alives: keep_alives.map_or(Ok(0), |value| value.parse())?,
            revision: number(&member.metric("etcd_debugging_mvcc_current_revision")?)?,
            processor_secs: member.metric("process_cpu_seconds_total")?.parse()?,
        })
    }
}

/// Large gauges come as `1.234e+06`.
fn number(text: &str) -> Result<u64, Failure> {
    let value: f64 = text.parse()?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count that a double holds exactly"
    )]
    Ok(value as u64)
}
