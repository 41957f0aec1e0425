//! Acquire and release of a free lock, over and over, by one task and by many, through the locker and
//! by the bare client.

use super::{Failure, Measuring, ROUNDS, Spread, Target};
use distributed_locker::{AcquireOptions, Acquired, Locker};
use locker_core::{Connect, Key};
use std::future::Future;
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
    let slice = measuring.slice;
    let locker = Locker::builder(store).start().await?;
    let mut clients = clients(bare, tasks).await?;
    // Statements, sockets and allocators get warm.
    let mut through_locker = 0;
    let mut ours = async || {
        let (pairs, rate) = by_locker(&locker, tasks, slice).await?;
        through_locker += pairs;
        Ok::<_, Failure>(rate)
    };
    ours().await?;
    clients = by_client::<B>(clients, slice).await?.0;
    let (mut ratios, mut our_rates, mut bare_rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        measuring.doing(format!("{what}, {tasks} tasks: round {round} of {ROUNDS}"));
        // Whoever is first has the colder machine: they take turns.
        let our;
        let their;
        if round % 2 == 1 {
            our = ours().await?;
            (clients, their) = by_client::<B>(clients, slice).await?;
        } else {
            (clients, their) = by_client::<B>(clients, slice).await?;
            our = ours().await?;
        }
        ratios.push(our / their);
        our_rates.push(our);
        bare_rates.push(their);
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
            rates.push(rate);
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

/// One measurement through the locker: how many pairs there were, and how many per second.
///
/// # Errors
///
/// The store's, or a free lock that is held.
pub async fn by_locker(
    locker: &Locker,
    tasks: usize,
    slice: Duration,
) -> Result<(u64, f64), Failure> {
    let begun = Instant::now();
    let limit = begun + slice;
    let tasks = (0..tasks).map(|task| tokio::spawn(lock_in_turns(locker.clone(), task, limit)));
    let tasks: Vec<JoinHandle<_>> = tasks.collect();
    let mut pairs = 0;
    for task in tasks {
        pairs += task.await??;
    }
    Ok((pairs, per_second(pairs, begun)))
}

/// One measurement by the bare client, a task for each of these: pairs per second.
///
/// # Errors
///
/// The bare client's.
pub async fn by_client<B: Bare>(
    clients: Vec<B::Client>,
    slice: Duration,
) -> Result<(Vec<B::Client>, f64), Failure> {
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
    Ok((clients, per_second(pairs, begun)))
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(pairs: u64, begun: Instant) -> f64 {
    pairs as f64 / begun.elapsed().as_secs_f64()
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
