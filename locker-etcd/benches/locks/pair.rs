//! Acquire and release of a free lock, over and over, by one task and by many, through the locker and
//! by the bare client; and, for information, through the server's own lock service.

use crate::raw::{Raw, Service};
use crate::stats::{Report, Spread, Target};
use crate::{Failure, ROUNDS};
use distributed_locker::{AcquireOptions, Acquired, Locker};
use indicatif::ProgressBar;
use locker_etcd::Etcd;
use locker_testkit::servers::etcd::Server;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MANY: usize = 64;
/// Of Linux, in what it tells programs.
const TICKS_PER_SEC: f64 = 100.0;

pub(crate) async fn measure(
    server: &Server,
    slice: Duration,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<(), Failure> {
    let url = server.url();
    let locker = Locker::builder(Arc::new(Etcd::from_url(url)?))
        .start()
        .await?;
    let raw = Raw::open(url).await?;
    let service = Service::open(url, 1).await?;
    for (tasks, least) in [(1, 0.80), (MANY, 3.5)] {
        let through_locker = || run(tasks, slice, |task| lock_in_turns(locker.clone(), task));
        let by_client = || run(tasks, slice, |task| raw_in_turns(raw.clone(), task));
        let mut costs = [Cost::default(); 2];
        let by_service = || run(tasks, slice, |task| service_in_turns(service.one(), task));
        // Sockets and allocators get warm.
        through_locker().await?;
        by_client().await?;
        by_service().await?;
        let (mut ratios, mut to_service) = (Vec::new(), Vec::new());
        let (mut ours, mut theirs, mut service) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            bar.set_message(format!("{tasks} tasks: round {} of {ROUNDS}", round + 1));
            // Whoever is first has the colder machine: they take turns.
            let [mut our, mut their] = [0.0; 2];
            for turn in [round, round + 1] {
                let (before, begun) = (Cost::so_far(server)?, Instant::now());
                let (rate, cost) = if turn % 2 == 0 {
                    our = through_locker().await?;
                    (our, &mut costs[0])
                } else {
                    their = by_client().await?;
                    (their, &mut costs[1])
                };
                let pairs = rate * begun.elapsed().as_secs_f64();
                cost.add(before, Cost::so_far(server)?, pairs);
            }
            let serviced = by_service().await?;
            to_service.push(our / serviced);
            service.push(serviced);
            ratios.push(our / their);
            ours.push(our);
            theirs.push(their);
        }
        let what = format!("acquire + release, {tasks} task(s)");
        report.ratio(&what, Spread::of(ratios), Target::AtLeast(least));
        report.ratio(
            format!("{what}, to the server's own lock service"),
            Spread::of(to_service),
            Target::AtLeast(1.0),
        );
        let medians = [ours, theirs, service].map(|all| Spread::of(all).median);
        let [ours, theirs, service] = medians;
        report.figure(
            format!("{what}, processor time for a pair"),
            format!(
                "{} through the locker; {} by the bare client",
                costs[0], costs[1]
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
    pairs: f64,
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
            pairs: 0.0,
        })
    }

    fn add(&mut self, before: Self, after: Self, pairs: f64) {
        self.transactions += after.transactions - before.transactions;
        self.server_secs += after.server_secs - before.server_secs;
        self.own_secs += after.own_secs - before.own_secs;
        self.pairs += pairs;
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |all: f64| all / self.pairs.max(1.0);
        write!(
            f,
            "{:.0} us of the server, {:.0} us of the client, {:.2} transactions",
            each(self.server_secs) * 1e6,
            each(self.own_secs) * 1e6,
            each(self.transactions)
        )
    }
}

/// Lets so many tasks do their pairs for so long, and answers pairs per second.
async fn run<F, T>(tasks: usize, slice: Duration, work: F) -> Result<f64, Failure>
where
    F: Fn(usize) -> T,
    T: Future<Output = Result<u64, Failure>> + Send + 'static,
{
    let begun = Instant::now();
    let limit = begun + slice;
    let running: Vec<_> = (0..tasks)
        .map(|task| tokio::spawn(LIMIT.scope(limit, work(task))))
        .collect();
    let mut pairs = 0;
    for task in running {
        pairs += task.await??;
    }
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    Ok(pairs as f64 / begun.elapsed().as_secs_f64())
}

tokio::task_local! {
    /// When a task stops.
    static LIMIT: Instant;
}

async fn lock_in_turns(locker: Locker, task: usize) -> Result<u64, Failure> {
    let key = locker_core::Key::new(format!("bench-{task}"))?;
    let limit = LIMIT.get();
    let mut pairs = 0;
    while Instant::now() < limit {
        let options = AcquireOptions::new();
        let Acquired::Guard(guard) = locker.acquire(&key, options).await? else {
            return Err("a free lock is held".into());
        };
        guard.release().await?;
        pairs += 1;
    }
    Ok(pairs)
}

async fn raw_in_turns(mut raw: Raw, task: usize) -> Result<u64, Failure> {
    let key = format!("raw-{task}");
    let value = format!("{key}@host/1.{task:032x}.1");
    let limit = LIMIT.get();
    let mut pairs = 0;
    while Instant::now() < limit {
        raw.pair(&key, &value).await?;
        pairs += 1;
    }
    Ok(pairs)
}

async fn service_in_turns(mut service: Service, task: usize) -> Result<u64, Failure> {
    let name = format!("service-{task}");
    let limit = LIMIT.get();
    let mut pairs = 0;
    while Instant::now() < limit {
        let key = service.lock(&name).await?;
        service.unlock(key).await?;
        pairs += 1;
    }
    Ok(pairs)
}
