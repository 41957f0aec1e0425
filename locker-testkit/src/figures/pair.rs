//! Acquire and release of a free lock, over and over, by one task and by many, through the locker and
//! by the bare client.

use super::{Failure, Measuring, ROUNDS, Spread, TURNS, Target};
use distributed_locker::{AcquireOptions, Acquired, Locker};
use locker_core::{Connect, Key};
use std::future::Future;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The bare client of a store: the smallest pair of requests that makes a lock.
pub trait Bare: 'static {
    /// What one task uses.
    type Client: Send + 'static;

    /// Opens the client of a task.
    fn client(&self) -> impl Future<Output = Result<Self::Client, Failure>>;

    /// Takes the lock and gives it back.
    fn pair(
        client: &mut Self::Client,
        key: &str,
        value: &str,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Pairs {
    /// How many pairs went through the locker, the warm-up included.
    pub through_locker: u64,
    /// Pairs per second, of each round's.
    pub locker: Spread,
    /// Pairs per second by the bare client.
    pub bare: Spread,
}

/// Pairs that were made, and how long it took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    /// How many there were.
    pub pairs: u64,
    took: Duration,
}

impl Rate {
    /// Pairs per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn per_second(self) -> f64 {
        self.pairs as f64 / self.took.as_secs_f64()
    }
}

impl AddAssign for Rate {
    fn add_assign(&mut self, more: Self) {
        self.pairs += more.pairs;
        self.took += more.took;
    }
}

/// Measures pairs of so many tasks, each with a key of its own.
///
/// # Errors
///
/// The store's, the bare client's; or a free lock that is held.
pub async fn pairs<B: Bare>(
    measuring: &mut Measuring,
    what: &str,
    store: Arc<dyn Connect>,
    bare: &B,
    tasks: usize,
    target: Target,
) -> Result<Pairs, Failure> {
    let slice = measuring.slice / TURNS;
    let locker = Locker::builder(store).start().await?;
    let mut clients = clients(bare, tasks).await?;
    let (mut ratios, mut our_rates, mut bare_rates) = (Vec::new(), Vec::new(), Vec::new());
    let mut through_locker = 0;
    // In the first one statements, sockets and allocators get warm.
    for round in 0..=ROUNDS {
        measuring.doing(format!("{what}, {tasks} tasks: round {round} of {ROUNDS}"));
        let (mut our, mut their) = (Rate::default(), Rate::default());
        for turn in 0..TURNS {
            // Whoever is first has the colder machine: that changes too.
            if turn % 2 == 0 {
                our += by_locker(&locker, tasks, slice).await?;
            }
            let rate;
            (clients, rate) = by_client::<B>(clients, slice).await?;
            their += rate;
            if turn % 2 == 1 {
                our += by_locker(&locker, tasks, slice).await?;
            }
        }
        through_locker += our.pairs;
        if round > 0 {
            ratios.push(our.per_second() / their.per_second());
            our_rates.push(our.per_second());
            bare_rates.push(their.per_second());
        }
    }
    let what = format!("acquire + release, {what}, {tasks} task(s)");
    measuring.report.ratio(&what, Spread::of(ratios), target);
    let (our, their) = (Spread::of(our_rates), Spread::of(bare_rates));
    measuring.report.figure(
        what,
        format!(
            "{:.0} pairs/s through the locker, {:.0} by the bare client",
            our.median, their.median
        ),
    );
    locker.terminate(Duration::from_secs(5)).await?;
    Ok(Pairs {
        through_locker,
        locker: our,
        bare: their,
    })
}

/// Pairs per second of the bare client alone, for information.
///
/// # Errors
///
/// The bare client's.
pub async fn bare_rate<B: Bare>(
    measuring: &Measuring,
    bare: &B,
    tasks: usize,
) -> Result<Spread, Failure> {
    let mut clients = clients(bare, tasks).await?;
    let mut rates = Vec::new();
    for round in 0..=ROUNDS {
        let rate;
        (clients, rate) = by_client::<B>(clients, measuring.slice).await?;
        if round > 0 {
            rates.push(rate.per_second());
        }
    }
    Ok(Spread::of(rates))
}

/// A client for each task.
///
/// # Errors
///
/// The bare client's.
pub async fn clients<B: Bare>(bare: &B, tasks: usize) -> Result<Vec<B::Client>, Failure> {
    let mut clients = Vec::new();
    for _ in 0..tasks {
        clients.push(bare.client().await?);
    }
    Ok(clients)
}

/// One measurement through the locker.
///
/// # Errors
///
/// The store's, or a free lock that is held.
pub async fn by_locker(locker: &Locker, tasks: usize, slice: Duration) -> Result<Rate, Failure> {
    let begun = Instant::now();
    let limit = begun + slice;
    let tasks = (0..tasks).map(|task| tokio::spawn(lock_in_turns(locker.clone(), task, limit)));
    let tasks: Vec<JoinHandle<_>> = tasks.collect();
    let mut pairs = 0;
    for task in tasks {
        pairs += task.await??;
    }
    let took = begun.elapsed();
    Ok(Rate { pairs, took })
}

/// One measurement by the bare client, a task for each of these.
///
/// # Errors
///
/// The bare client's.
pub async fn by_client<B: Bare>(
    clients: Vec<B::Client>,
    slice: Duration,
) -> Result<(Vec<B::Client>, Rate), Failure> {
    let begun = Instant::now();
    let limit = begun + slice;
    let tasks = clients.into_iter().enumerate();
    let tasks = tasks.map(|(task, client)| tokio::spawn(bare_in_turns::<B>(client, task, limit)));
    let tasks: Vec<JoinHandle<_>> = tasks.collect();
    let (mut clients, mut pairs) = (Vec::new(), 0);
    for task in tasks {
        let (client, done) = task.await??;
        clients.push(client);
        pairs += done;
    }
    let took = begun.elapsed();
    Ok((clients, Rate { pairs, took }))
}

async fn lock_in_turns(locker: Locker, task: usize, limit: Instant) -> Result<u64, Failure> {
    let key = Key::new(format!("bench-{task}"))?;
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

async fn bare_in_turns<B: Bare>(
    mut client: B::Client,
    task: usize,
    limit: Instant,
) -> Result<(B::Client, u64), Failure> {
    let key = format!("bare-{task}");
    let value = format!("{key}@host/1.{task:032x}.1");
    let mut pairs = 0;
    while Instant::now() < limit {
        B::pair(&mut client, &key, &value).await?;
        pairs += 1;
    }
    Ok((client, pairs))
}
