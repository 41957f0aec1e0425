//! How held locks are kept, many at once, when the store answers only some of them or none.

use super::World;
use crate::fixture::Fixture;
use crate::wrap::{Counted, Fault, Faulty, Method, Scope, Twist, Twisted};
use async_trait::async_trait;
use distributed_locker::{AcquireOptions, HeartbeatPolicy};
use locker_core::backend::{Answer, Limits, Reply, Side, Standing};
use locker_core::{Backend, BackendError, Effect, ErrorKind, OwnerHash};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The answers of a batch belong to its locks one by one, also when some of them have gone.
pub async fn a_lock_given_back_during_a_check_shifts_nobodys_answer<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let mut guards = Vec::new();
    for n in 0..8 {
        let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
        guards.push(world.hold_with(&locker, &format!("k{n}"), options).await);
    }
    let check = Scope::all().of(Method::Check);
    faulty.inject(check, Fault::Stall);
    let limit = world.timing().recheck_every * 4;
    world
        .until(limit, "the locks are being checked", async || {
            faulty.struck() > 0
        })
        .await;
    for guard in guards.drain(..4) {
        world.during(guard.release()).await.unwrap();
    }
    faulty.heal();
    world.pass(world.timing().retry_after * 4).await;
    for guard in &guards {
        assert_eq!(guard.loss(), None, "{} is held", guard.key());
    }
}

/// An extension and a check are due at the same point of the grid: the failure of the one must not
/// make the other forget it.
pub async fn a_failed_extension_is_repeated_soon<F: Fixture>(world: World<F>) {
    let (counted, faulty) = (Counted::new(), Faulty::new());
    let connect = counted.around(faulty.around(world.process()));
    let locker = world.locker_over(connect).await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let _guard = world.hold_with(&locker, "k", options).await;
    faulty.inject(Scope::all().of(Method::Extend).once(), Fault::Refuse);
    let limit = world.timing().extend_every * 2;
    world
        .until(limit, "an extension fails", async || faulty.struck() > 0)
        .await;
    let before = counted.counts();
    world.pass(world.timing().retry_after * 6).await;
    let sent = counted.counts().since(&before);
    assert_eq!(sent.from(Side::Upkeep, Method::Extend), 1, "{sent:?}");
}

/// A store of which a part is silent, that with the locks `silent…`, and what it was asked about at once.
#[derive(Debug, Clone, Default)]
struct Silent {
    /// How many locks it takes in a batch, if not as many as the store.
    batch: Option<usize>,
    is_over: Arc<AtomicBool>,
    batches: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Silent {
    fn is_silent(key: &str) -> bool {
        key.starts_with("silent")
    }

    fn answer(&self, owners: &[OwnerHash], mut reply: Reply<Standings>) -> Answer<Standings> {
        let keys: Vec<String> = owners.iter().map(|it| it.key().to_string()).collect();
        let is_heard = |key: &str| self.is_over.load(Ordering::Relaxed) || !Self::is_silent(key);
        let silence = || {
            let text = "nothing is heard";
            BackendError::new(ErrorKind::Busy, Effect::Unknown, text)
        };
        let all = keys.iter().zip(&mut reply.value);
        all.filter(|(key, _)| !is_heard(key))
            .for_each(|(_, standing)| *standing = Err(silence()));
        let answered = keys.iter().any(|key| is_heard(key));
        self.batches().push(keys);
        if answered { Ok(reply) } else { Err(silence()) }
    }

    fn batches(&self) -> MutexGuard<'_, Vec<Vec<String>>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batches with a silent lock: how many of such alone, and how many with others.
    fn with_it(&self) -> (usize, usize) {
        let batches = self.batches();
        let silent = |batch: &&Vec<String>| batch.iter().any(|key| Self::is_silent(key));
        let only = |batch: &&Vec<String>| batch.iter().all(|key| Self::is_silent(key));
        let (alone, mixed): (Vec<_>, Vec<_>) = batches.iter().filter(silent).partition(only);
        (alone.len(), mixed.len())
    }
}

type Standings = Vec<Result<Standing, BackendError>>;

#[async_trait]
impl Twist for Silent {
    fn limits(&self, store: &dyn Backend) -> Limits {
        let limits = store.limits();
        Limits {
            batch: self.batch.unwrap_or(limits.batch),
            ..limits
        }
    }

    async fn extend(
        &self,
        store: &dyn Backend,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Standings> {
        self.answer(owners, store.extend(owners, ttl).await?)
    }

    async fn check(&self, store: &dyn Backend, owners: &[OwnerHash]) -> Answer<Standings> {
        self.answer(owners, store.check(owners).await?)
    }
}

/// L5: a part of the store that is silent must not keep the others' locks from being extended: who
/// was not answered is asked about apart from the others, and with them again when it was.
pub async fn what_has_failed_is_asked_apart_from_the_others<F: Fixture>(world: World<F>) {
    let silent = Silent::default();
    let connect = Twisted::connect(world.process(), silent.clone());
    let locker = world.locker_over(connect).await;
    let mut guards = Vec::new();
    for key in ["a", "silent", "b"] {
        let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
        guards.push(world.hold_with(&locker, key, options).await);
    }
    // It is asked again and again, also when the others are due.
    let limit = world.timing().recheck_every * 4;
    world.pass(limit).await;
    let (alone, mixed) = silent.with_it();
    assert!(alone > 2 && mixed <= 1, "{:?}", silent.batches());
    silent.is_over.store(true, Ordering::Relaxed);
    world
        .until(limit, "it is asked with others", async || {
            silent.with_it().1 > mixed
        })
        .await;
    for guard in &guards {
        assert!(guard.is_valid(), "{}: {:?}", guard.key(), guard.loss());
    }
}

/// L5: of what is silent one batch is asked in vain in a round, and each has its turn: silence must not
/// take the time that others need, however many locks lie there.
pub async fn silence_costs_a_round_one_batch<F: Fixture>(world: World<F>) {
    const LOCKS: usize = 24;
    let silent = Silent {
        batch: Some(2),
        ..Silent::default()
    };
    let connect = Twisted::connect(world.process(), silent.clone());
    let locker = world.locker_over(connect).await;
    let mut guards = Vec::new();
    for n in 0..LOCKS {
        let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
        guards.push(
            world
                .hold_with(&locker, &format!("silent{n}"), options)
                .await,
        );
    }
    let timing = world.timing();
    world.pass(timing.extend_every + timing.recheck_every).await;
    silent.batches().clear();
    let begun = world.now();
    world.pass(timing.retry_after * 40).await;
    let rounds = world.now().since(begun).as_millis() / timing.retry_after.as_millis() + 2;
    let batches = silent.batches().clone();
    // One of extends and one of checks; what is due a moment later than the others makes a round of
    // its own.
    let asked = batches.len() as u128;
    assert!(
        asked <= 6 * rounds,
        "{asked} in {rounds} rounds: {batches:?}"
    );
    for guard in &guards {
        let key = guard.key().to_string();
        let had_its_turn = batches.iter().any(|batch| batch.contains(&key));
        assert!(had_its_turn, "{key}: {batches:?}");
        assert!(guard.is_valid(), "{key}: {:?}", guard.loss());
    }
}
