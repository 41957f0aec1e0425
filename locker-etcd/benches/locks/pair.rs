//! Acquire and release of a free lock, over and over, by one task and by many, through the locker and
//! by the bare client; and, for information, through the server's own lock service.

use crate::raw::{Raw, Service};
use distributed_locker::Locker;
use locker_testkit::figures::{
    Failure, Measuring, ROUNDS, Rate, Spread, TURNS, Target, by_client, by_locker, clients,
};
use locker_testkit::servers::etcd::Server;
use std::fmt;
use std::time::Duration;

const MANY: usize = 64;
/// Of Linux, in what it tells programs.
const TICKS_PER_SEC: f64 = 100.0;

pub(crate) async fn measure(measuring: &mut Measuring, server: &Server) -> Result<(), Failure> {
    let url = server.url();
    let slice = measuring.slice / TURNS;
    let locker = Locker::builder(measuring.open(url)?).start().await?;
    let raw = Raw::open(url).await?;
    let service = Service::open(url, 1).await?;
    for (tasks, least) in [(1, 0.80), (MANY, 3.5)] {
        let mut bare = clients(&raw, tasks).await?;
        let mut its_clients = clients(&service, tasks).await?;
        let mut costs = [Cost::default(); 3];
        let (mut ratios, mut to_service) = (Vec::new(), Vec::new());
        let (mut ours, mut theirs, mut rates_of_service) = (Vec::new(), Vec::new(), Vec::new());
        // In the first one sockets and allocators get warm.
        for round in 0..=ROUNDS {
            measuring.doing(format!("{tasks} tasks: round {round} of {ROUNDS}"));
            let mut rates = [Rate::default(); 3];
            for turn in 0..TURNS {
                // Whoever is first has the colder machine: that changes too.
                let order = if turn % 2 == 0 { [0, 1, 2] } else { [1, 0, 2] };
                for side in order {
                    let (before, rate) = (Cost::so_far(server)?, &mut rates[side]);
                    let more;
                    match side {
                        0 => more = by_locker(&locker, tasks, slice).await?,
                        1 => (bare, more) = by_client::<Raw>(bare, slice).await?,
                        _ => (its_clients, more) = by_client::<Service>(its_clients, slice).await?,
                    }
                    *rate += more;
                    if round > 0 {
                        costs[side].add(before, Cost::so_far(server)?, more);
                    }
                }
            }
            if round > 0 {
                let [our, their, of_service] = rates.map(Rate::per_second);
                to_service.push(our / of_service);
                rates_of_service.push(of_service);
                ratios.push(our / their);
                ours.push(our);
                theirs.push(their);
            }
        }
        let what = format!("acquire + release, {tasks} task(s)");
        let report = &mut measuring.report;
        report.ratio(&what, Spread::of(ratios), Target::AtLeast(least));
        report.ratio(
            format!("{what}, to the server's own lock service"),
            Spread::of(to_service),
            Target::AtLeast(1.0),
        );
        let medians = [ours, theirs, rates_of_service].map(|all| Spread::of(all).median);
        let [ours, theirs, service] = medians;
        report.figure(
            format!("{what}, processor time for a pair"),
            format!(
                "{} through the locker; {} by the bare client; {} by the lock service",
                costs[0], costs[1], costs[2]
            ),
        );
        report.figure(
            what,
            format!(
                "{ours:.0} pairs/s through the locker, {theirs:.0} by the bare client, \
                 {service:.0} by the lock service"
            ),
        );
    }
    locker.terminate(Duration::from_secs(5)).await?;
    Ok(())
}

/// What pairs cost the processors: that depends less on who else uses the machine than the time that
/// passes does.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    transactions: f64,
    server_secs: f64,
    own_secs: f64,
    pairs: u64,
}

impl Cost {
    fn so_far(server: &Server) -> Result<Self, Failure> {
        let transactions = server.member().metric(
            "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Txn\",\
             grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}",
        )?;
        let server_secs = server.member().metric("process_cpu_seconds_total")?;
        // Behind the name of the program: fields 14 and 15, user's and system's time, in ticks.
        let own = std::fs::read_to_string("/proc/self/stat")?;
        let (_, own) = own.rsplit_once(')').ok_or("no process")?;
        let ticks = own.split_whitespace().skip(11).take(2);
        let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self {
            transactions: transactions.parse()?,
            server_secs: server_secs.parse()?,
            own_secs: ticks.iter().sum::<f64>() / TICKS_PER_SEC,
            pairs: 0,
        })
    }

    fn add(&mut self, before: Self, after: Self, more: Rate) {
        self.transactions += after.transactions - before.transactions;
        self.server_secs += after.server_secs - before.server_secs;
        self.own_secs += after.own_secs - before.own_secs;
        self.pairs += more.pairs;
    }
}

impl fmt::Display for Cost {
    #[expect(clippy::cast_precision_loss, reason = "a mean")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |all: f64| all / self.pairs.max(1) as f64;
        write!(
            f,
            "{:.0} us of the server, {:.0} us of the client, {:.2} transactions",
            each(self.server_secs) * 1e6,
            each(self.own_secs) * 1e6,
            each(self.transactions)
        )
    }
}
