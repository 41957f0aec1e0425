//! The cycles of a soak, and the troubles that it gets into.

use super::{Resources, Witness};
use crate::cancellation::cut::{Cut, cut};
use crate::wrap::{Fault, Faulty, Scope};
use distributed_locker::{
    AcquireOptions, Acquired, Connect, LockGuard, Locker, StartError, Timing, Wait,
};
use locker_core::backend::Side;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// How many keys there are. A store remembers every key for 30 days, so there are few.
const KEYS: u64 = 16;
/// How many cycles are under way at a time, of both lockers together.
const AT_ONCE: u64 = 6;

/// Which faults there are, each for one side.
const FAULTS: [Fault; 4] = [
    Fault::Refuse,
    Fault::LoseReply,
    Fault::LoseRequest,
    Fault::Stall,
];
const SIDES: [Side; 3] = [Side::Caller, Side::Reports, Side::Upkeep];

/// Numbers that look random and are the same for one seed.
#[derive(Debug)]
struct Numbers(AtomicU64);

impl Numbers {
    fn next(&self, below: u64) -> u64 {
        let mut x = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % below
    }
}

impl Numbers {
    fn one_of<T, const N: usize>(&self, choices: [T; N]) -> T {
        let skipped = self.next(N as u64);
        let mut choices = choices.into_iter();
        for _ in 0..skipped {
            choices.next();
        }
        choices.next().expect("the number is below their count")
    }
}

/// Two lockers of one store that lock without end.
#[derive(Debug)]
pub struct Cycles {
    lockers: [Locker; 2],
    timing: Timing,
    faulty: [Faulty; 2],
    witness: Witness,
    numbers: Numbers,
    done: AtomicU64,
    grants: AtomicU64,
    errors: AtomicU64,
}

impl Cycles {
    /// Starts two lockers over two connections to one store, as two processes would have them.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(
        store: [Arc<dyn Connect>; 2],
        timing: Timing,
        seed: u64,
    ) -> Result<Self, StartError> {
        let [one, other] = store;
        let faulty = [Faulty::new(), Faulty::new()];
        let start = async |faulty: &Faulty, store| {
            let builder = Locker::builder(faulty.around(store)).timing(timing);
            builder.start().await
        };
        Ok(Self {
            lockers: [
                start(&faulty[0], one).await?,
                start(&faulty[1], other).await?,
            ],
            timing,
            faulty,
            witness: Witness::default(),
            numbers: Numbers(AtomicU64::new(seed)),
            done: AtomicU64::new(0),
            grants: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    /// Cycles until so many are done in all, several at a time.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the cycles under way, which is what some of them do anyway.
    pub async fn run_to(&self, cycles: u64) {
        let worker = async |number: u64| {
            while self.done.fetch_add(1, Ordering::Relaxed) < cycles {
                self.cycle(&self.lockers[usize::from(number.is_multiple_of(2))])
                    .await;
            }
            // The one too many.
            self.done.fetch_sub(1, Ordering::Relaxed);
        };
        // Not tasks: those of the runtime are counted.
        futures_util::future::join_all((0..AT_ONCE).map(worker)).await;
    }

    async fn cycle(&self, locker: &Locker) {
        let key = format!("soak/{}", self.numbers.next(KEYS));
        let wait = AcquireOptions::new().wait(Wait::For(Duration::from_millis(50)));
        let moment = self.numbers.next(12);
        match self.numbers.next(8) {
            // It is cancelled, wherever it is by then.
            0 | 1 => {
                let polls = usize::try_from(moment).unwrap_or(0);
                if let Cut::Ended(acquired) = cut(Box::pin(locker.acquire(key, wait)), polls).await
                {
                    self.hold(acquired, 0).await;
                }
            }
            // It waits for whoever holds it.
            2 | 3 => self.hold(locker.acquire(key, wait).await, moment).await,
            _ => {
                let acquired = locker.acquire(key, AcquireOptions::new()).await;
                self.hold(acquired, 0).await;
            }
        }
    }

    fn grant(&self, guard: LockGuard) -> Granted<'_> {
        self.grants.fetch_add(1, Ordering::Relaxed);
        self.witness.granted(&guard);
        Granted {
            witness: &self.witness,
            guard: Some(guard),
        }
    }

    async fn hold(&self, acquired: Result<Acquired, distributed_locker::AcquireError>, work: u64) {
        match acquired {
            Ok(Acquired::Guard(guard)) => {
                let mut granted = self.grant(guard);
                for _ in 0..work {
                    tokio::task::yield_now().await;
                }
                // Some are released, and some just dropped.
                if self.numbers.next(3) > 0
                    && let Some(guard) = granted.give_back()
                    && guard.release().await.is_err()
                {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(Acquired::SomeoneElseHoldsLock(_)) => {}
            Err(_) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                // A store that refuses is not asked without a pause.
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Waits until nothing is on its way any more, and counts what the process needs while all its
    /// connections are open.
    pub async fn at_rest(&self) -> Resources {
        self.faulty.iter().for_each(Faulty::heal);
        for locker in &self.lockers {
            self.connects(locker).await;
        }
        for _ in 0..2_000 {
            let empty = self.lockers.iter().all(|locker| locker.keys().is_empty());
            let alive = self.lockers.iter().all(|one| one.process_hash().is_some());
            if empty && alive {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        // Timers and tasks that have just ended are collected in a moment.
        sleep(Duration::from_millis(200)).await;
        Resources::now()
    }

    /// Makes every side of a locker use its connection, which is opened again only then if a fault
    /// has closed it: a lock is acquired, checked and released.
    async fn connects(&self, locker: &Locker) {
        let wait = AcquireOptions::new().wait(Wait::For(self.timing.liveness_ttl));
        for _ in 0..20 {
            let acquired = locker.acquire("soak/at rest", wait.clone()).await;
            let Ok(Acquired::Guard(guard)) = acquired else {
                continue;
            };
            sleep(self.timing.recheck_every * 3 / 2).await;
            if guard.is_valid() && guard.release().await.is_ok() {
                return;
            }
        }
    }

    /// How many cycles are done, and how many locks they got.
    pub fn done(&self) -> (u64, u64) {
        let done = self.done.load(Ordering::Relaxed);
        (done, self.grants.load(Ordering::Relaxed))
    }

    /// How many requests failed: with troubles they do.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// What the witness saw.
    pub fn violations(&self) -> Vec<String> {
        self.witness.violations()
    }

    /// What gets the lockers into trouble.
    pub fn troubles(&self) -> Troubles<'_> {
        Troubles(self)
    }
}

/// A grant that the witness knows of, also when it is just dropped.
struct Granted<'a> {
    witness: &'a Witness,
    guard: Option<LockGuard>,
}

impl Granted<'_> {
    fn give_back(&mut self) -> Option<LockGuard> {
        let guard = self.guard.take()?;
        self.witness.given_back(&guard);
        Some(guard)
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        drop(self.give_back());
    }
}

/// Two random faults at a time, for a moment each (F28).
#[derive(Debug)]
pub struct Troubles<'a>(&'a Cycles);

impl Troubles<'_> {
    /// Makes trouble for so long, and then none.
    pub async fn run(&self, lasting: Duration) {
        let cycles = self.0;
        for faulty in &cycles.faulty {
            let scope = Scope::all().from(cycles.numbers.one_of(SIDES));
            faulty.inject(scope, cycles.numbers.one_of(FAULTS));
        }
        sleep(lasting).await;
        cycles.faulty.iter().for_each(Faulty::heal);
    }
}
