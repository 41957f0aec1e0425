//! A worker process, from inside: it competes for the keys, works under the locks, does what it is
//! told, and writes down what happens.
//!
//! Its jobs run on a runtime of one thread, so that an order to block it blocks all of them. Orders
//! come on stdin; when that closes, the harness has gone, and so does the worker.

mod job;
mod say;

use super::deployment;
use super::event::Event;
use super::order::{Config, Order, Trouble};
use super::rng::Rng;
use super::times::{Times, as_micros, micros};
use super::witness::Witness;
use crate::wrap::{Counted, Fault, Faulty, Method, Scope};
use distributed_locker::{
    AcquireError, AcquireOptions, Acquired, Events, Locker, ReporterEvent, Wait,
};
use locker_core::backend::Side;
use locker_core::time::ClockJump;
use say::Say;
use std::collections::HashMap;
use std::error::Error;
use std::io::BufRead;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Runs a worker until it is told to end.
pub fn main(config: Config) -> ExitCode {
    let Ok(say) = Say::new(config.worker) else {
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(run(config, say.clone())));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let why = error.to_string();
            say.event(Event::Failed { why });
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, say: Say) -> Result<(), Box<dyn Error>> {
    say.watch_gaps()?;
    let (faulty, counted) = (Faulty::new(), Counted::new());
    let times = Times {
        t: Duration::from_millis(config.ttl_ms),
    };
    let store = deployment::connect(&config.deployment, &config.url, times)?;
    let store = faulty.around(counted.around(store));
    let began = micros();
    let locker = loop {
        let builder = Locker::builder(Arc::clone(&store)).timing(times.timing());
        match builder.start().await {
            Ok(locker) => break locker,
            // Started while the store is away, it is started again, as a supervisor does.
            Err(_) if micros() - began < as_micros(times.t * 10) => {
                tokio::time::sleep(times.timing().retry_after).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let witnesses = (0..config.keys)
        .map(|key| Witness::open(&config.folder, key).map(Mutex::new))
        .collect::<Result<_, _>>()?;
    // The signal is caught before anybody knows that the worker is there.
    let mut shutdown = locker.shutdown_on_signals(times.t)?;
    let mut orders = read_orders();
    tokio::spawn(watch_clock(locker.events(), say.clone()));
    say.event(Event::Ready);
    let worker = Arc::new(Worker {
        times,
        locker,
        faulty,
        counted,
        witnesses,
        say: say.clone(),
        orders: Mutex::default(),
        let_go: Notify::new(),
        ending: AtomicBool::new(false),
    });
    if config.works {
        for key in 0..config.keys {
            let rng = Rng::new(config.seed).fork(u64::from(std::process::id()) << 8 | key as u64);
            tokio::spawn(Arc::clone(&worker).work(key, rng));
        }
    }
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => std::process::exit(0),
                Some(Order::End) => {
                    worker.ending.store(true, Ordering::Relaxed);
                    worker.locker.terminate(times.t * 2).await?;
                    break;
                }
                Some(order) => worker.obey(order).await,
            },
            done = shutdown.finished() => {
                done?;
                break;
            }
        }
    }
    say.event(Event::Ended);
    Ok(())
}

/// Writes down what the locker reports of the store's clock.
async fn watch_clock(mut events: Events, say: Say) {
    while let Some(event) = events.next().await {
        let distributed_locker::Event::Reporter(ReporterEvent::StoreClockJumped(jump)) = event
        else {
            continue;
        };
        let (forward, by) = match jump {
            ClockJump::Forward(by) => (true, by),
            ClockJump::Back(by) => (false, by),
        };
        let micros = as_micros(by);
        say.event(Event::StoreClock { forward, micros });
    }
}

/// Orders from stdin, read by a thread of their own.
fn read_orders() -> mpsc::UnboundedReceiver<Order> {
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Ok(order) = serde_json::from_str(&line)
                && sender.send(order).is_err()
            {
                return;
            }
        }
    });
    orders
}

/// What the tasks of a worker share.
#[derive(Debug)]
struct Worker {
    times: Times,
    locker: Locker,
    faulty: Faulty,
    counted: Counted,
    witnesses: Vec<Mutex<Witness>>,
    say: Say,
    orders: Mutex<HashMap<usize, Kept>>,
    /// Rung when an order about a key has come.
    let_go: Notify,
    /// Jobs that linger after their loss must come to an end.
    ending: AtomicBool,
}

/// What was ordered about a key.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    /// The next grant is to be kept.
    keep: bool,
    /// A grant is being kept.
    holding: bool,
    fork: bool,
}

impl Worker {
    fn orders(&self) -> MutexGuard<'_, HashMap<usize, Kept>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A grant has come; answers whether it is to be kept.
    fn start_keeping(&self, key: usize) -> bool {
        let mut orders = self.orders();
        let kept = orders.entry(key).or_default();
        kept.holding = std::mem::take(&mut kept.keep);
        kept.holding
    }

    /// The grant that was kept need not be kept, and neither need the next one.
    fn stop_keeping(&self, key: usize) {
        let mut orders = self.orders();
        let kept = orders.entry(key).or_default();
        (kept.keep, kept.holding) = (false, false);
    }

    /// Takes the lock again and again, until the locker takes no more work.
    async fn work(self: Arc<Self>, key: usize, mut rng: Rng) {
        loop {
            let steps = 2 + rng.below(3);
            let wait = Wait::For(self.times.t * 10);
            if !self.take(key, wait, steps).await {
                return;
            }
            let pause = Duration::from_millis(1 + rng.below(4));
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes the lock once and does its job. Answers whether there is a point in going on.
    async fn take(&self, key: usize, wait: Wait, steps: u64) -> bool {
        let options = AcquireOptions::new().wait(wait);
        match self.locker.acquire(name(key).as_str(), options).await {
            Ok(Acquired::Guard(guard)) => {
                self.job(key, guard, steps).await;
                true
            }
            Ok(Acquired::SomeoneElseHoldsLock(_)) => {
                self.say.event(Event::InVain { key });
                true
            }
            Err(AcquireError::Draining(_)) => false,
            Err(error) => {
                let kind = kind(&error);
                self.say.event(Event::Refused { key, kind });
                tokio::time::sleep(self.times.timing().retry_after).await;
                true
            }
        }
    }

    async fn obey(self: &Arc<Self>, order: Order) {
        match order {
            Order::Keep(key) => self.orders().entry(key).or_default().keep = true,
            Order::LetGo(key) => {
                self.stop_keeping(key);
                self.let_go.notify_waiters();
            }
            Order::Take(key, wait_ms) => {
                self.orders().entry(key).or_default().keep = true;
                let worker = Arc::clone(self);
                let wait = Wait::For(Duration::from_millis(wait_ms));
                tokio::spawn(async move { worker.take(key, wait, 1).await });
            }
            Order::Herd(key, waiters) => {
                for _ in 0..waiters {
                    let worker = Arc::clone(self);
                    let wait = Wait::For(self.times.t * 60);
                    tokio::spawn(async move { worker.take(key, wait, 1).await });
                }
            }
            Order::Block(millis) => {
                std::thread::sleep(Duration::from_millis(millis));
            }
            Order::Fork(key) => self.orders().entry(key).or_default().fork = true,
            Order::Trouble(trouble) => self.trouble(trouble),
            Order::Deliver => {
                for held in self.faulty.take_held() {
                    held.deliver().await;
                }
            }
            Order::Heal => self.faulty.heal(),
            Order::End => {}
        }
        let what = format!("{order:?}");
        let attempts = self.attempts();
        self.say.event(Event::Did { what, attempts });
    }

    fn trouble(&self, trouble: Trouble) {
        let all = Scope::all();
        let (scope, fault) = match trouble {
            Trouble::BlockReports => {
                let reports = all.from(Side::Reports).of(Method::RenewProcess);
                (reports, Fault::BlockThread)
            }
            Trouble::CutOff => (all, Fault::Stall),
            Trouble::LoseReplies => {
                // Connections are made as ever: the requests on them must arrive.
                for method in Method::ALL
                    .into_iter()
                    .filter(|one| *one != Method::Connect)
                {
                    self.faulty.inject(all.of(method), Fault::LoseReply);
                }
                return;
            }
            Trouble::SlowReplies => (all, Fault::DelayReply(self.times.t / 4)),
            Trouble::LoseCreate => (all.of(Method::TryCreate).once(), Fault::LoseReply),
            Trouble::LoseExtend => (all.of(Method::Extend).once(), Fault::LoseReply),
            Trouble::LoseRelease => (all.of(Method::Release).once(), Fault::LoseReply),
            Trouble::LoseReport => (all.of(Method::RenewProcess).once(), Fault::LoseReply),
            Trouble::HoldCreate => (all.of(Method::TryCreate).once(), Fault::Hold),
        };
        self.faulty.inject(scope, fault);
    }

    fn attempts(&self) -> u64 {
        let counts = self.counted.counts();
        counts.of(Method::TryCreate) + counts.of(Method::TakeOver)
    }
}

/// The name of a key.
pub fn name(key: usize) -> String {
    format!("key-{key}")
}

fn kind(error: &AcquireError) -> String {
    match error {
        AcquireError::Store(store) => format!("{:?}", store.kind()),
        AcquireError::NotRunning(_) => "NotRunning".to_owned(),
        AcquireError::TooLate => "TooLate".to_owned(),
        other => other.to_string(),
    }
}
