//! Ten thousand locks that are held and do nothing: what they cost the server.

use locker_testkit::figures::{self, Failure, LOCKS, Measuring};
use locker_testkit::servers::etcd::Server;

pub(crate) async fn measure(measuring: &mut Measuring, server: &Server) -> Result<(), Failure> {
    let look = async || Info::read(server);
    let idle = figures::idle(measuring, server.url(), look).await?;
    let (before, held, after) = (&idle.before, &idle.held, &idle.after);
    let report = &mut measuring.report;
    report.figure(
        format!("{LOCKS} locks acquired"),
        format!(
            "by {} transactions",
            held.transactions - before.transactions
        ),
    );
    report.figure(
        format!("{LOCKS} idle locks for {} s", measuring.idle.as_secs()),
        format!(
            "{} transactions, {} reads, {} keep-alives, {} revisions, \
             {:.2} s of the server's processor time",
            after.transactions - held.transactions,
            after.reads - held.reads,
            after.keep_alives - held.keep_alives,
            after.revision - held.revision,
            after.processor_secs - held.processor_secs
        ),
    );
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
