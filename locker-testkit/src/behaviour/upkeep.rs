//! How held locks are kept, many at once, when the store answers only some of them or none.

use super::World;
use crate::fixture::Fixture;
use crate::scaled;
use crate::wrap::{Counted, Fault, Faulty, Method, Scope, Twist, Twisted};
use async_trait::async_trait;
use distributed_locker::{AcquireOptions, HeartbeatPolicy, LockGuard, Locker, Timing};
use futures_util::future::join_all;
use locker_core::backend::{Answer, Limits, Released, Renewal, Reply, Side, Standing};
use locker_core::{Backend, BackendError, Effect, ErrorKind, OwnerHash, ProcessHash};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The answers of a batch belong to its locks one by one, also when some of them have gone.
pub async fn a_lock_given_back_during_a_check_shifts_nobodys_answer<F: Fixture>(world: World<F>) {
    let (locker, faulty) = world.faulty_locker().await;
    let mut guards = world.hold_many(&locker, 8).await;
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
    let before = counted.counts();
    faulty.inject(Scope::all().of(Method::Extend).once(), Fault::Refuse);
    let limit = world.timing().extend_every * 2;
    world
        .until(limit, "an extension fails", async || faulty.struck() > 0)
        .await;
    world.pass(world.timing().retry_after * 6).await;
    let sent = counted.counts().since(&before);
    // The one that failed, and its repetition.
    assert_eq!(sent.from(Side::Upkeep, Method::Extend), 2, "{sent:?}");
}

/// A store of which a part is silent, that with the locks `silent…`. Who asks nothing but that is never
/// answered.
#[derive(Debug, Clone, Default)]
struct Silent {
    /// How many locks it takes in a batch, if not as many as the store.
    batch: Option<usize>,
    is_over: Arc<AtomicBool>,
    /// Whether the next check of those that are heard fails that comes before one of those that are not.
    stumbles: Arc<AtomicBool>,
    /// How many batches there had been when it did.
    failed: Arc<AtomicUsize>,
    /// Whether the last batch that was not answered was to be extended.
    extends: Arc<AtomicBool>,
    /// Whether the next release of those that are heard fails.
    refuses: Arc<AtomicBool>,
    /// Whether nothing is heard of processes: they lapse.
    lapses: Arc<AtomicBool>,
    /// Whether nothing is heard of those that are retired.
    keeps: Arc<AtomicBool>,
    /// What it was asked about at once.
    batches: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Silent {
    fn is_silent(key: &str) -> bool {
        key.starts_with("silent")
    }

    fn is_heard(&self, owner: &OwnerHash) -> bool {
        self.is_over.load(Ordering::Relaxed) || !Self::is_silent(owner.key().as_ref())
    }

    /// Comes back only if one of them is heard.
    async fn ask(&self, owners: &[OwnerHash], extends: bool) {
        let keys = owners.iter().map(|it| it.key().to_string());
        self.batches().push(keys.collect());
        if !owners.iter().any(|owner| self.is_heard(owner)) {
            self.extends.store(extends, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
    }

    fn answer(&self, owners: &[OwnerHash], mut reply: Reply<Standings>) -> Reply<Standings> {
        for (owner, standing) in owners.iter().zip(&mut reply.value) {
            if !self.is_heard(owner) {
                let text = "nothing is heard";
                let error = BackendError::new(ErrorKind::Busy, Effect::Unknown, text);
                *standing = Err(error.unanswered());
            }
        }
        reply
    }

    fn batches(&self) -> MutexGuard<'_, Vec<Vec<String>>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody who is heard was asked about since the check that failed.
    fn has_repeated(&self) -> bool {
        let batches = self.batches();
        let failed = self.failed.load(Ordering::Relaxed);
        let since = batches.iter().skip(failed).flatten();
        failed > 0 && since.into_iter().any(|key| !Self::is_silent(key))
    }

    /// How many batches there were with nothing but silent locks, with such and others, and with others
    /// only.
    fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        for batch in &*self.batches() {
            let silent = batch.iter().filter(|key| Self::is_silent(key)).count();
            let place = if silent == batch.len() {
                0
            } else if silent > 0 {
                1
            } else {
                2
            };
            counts[place] += 1;
        }
        counts
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
        self.ask(owners, true).await;
        Ok(self.answer(owners, store.extend(owners, ttl).await?))
    }

    async fn check(&self, store: &dyn Backend, owners: &[OwnerHash]) -> Answer<Standings> {
        self.ask(owners, false).await;
        if self.extends.load(Ordering::Relaxed) && self.stumbles.swap(false, Ordering::Relaxed) {
            self.failed.store(self.batches().len(), Ordering::Relaxed);
            let (kind, effect) = (ErrorKind::Busy, Effect::NotApplied);
            return Err(BackendError::new(kind, effect, "a moment, please"));
        }
        Ok(self.answer(owners, store.check(owners).await?))
    }

    async fn renew_process(
        &self,
        store: &dyn Backend,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Renewal> {
        if self.lapses.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        store.renew_process(process, ttl).await
    }

    async fn retire_process(&self, store: &dyn Backend, process: &ProcessHash) -> Answer<()> {
        if self.keeps.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        store.retire_process(process).await
    }

    async fn release(&self, store: &dyn Backend, owner: &OwnerHash) -> Answer<Released> {
        if !self.is_heard(owner) {
            std::future::pending::<()>().await;
        }
        if self.refuses.swap(false, Ordering::Relaxed) {
            let (kind, effect) = (ErrorKind::Busy, Effect::NotApplied);
            return Err(BackendError::new(kind, effect, "a moment, please"));
        }
        store.release(owner).await
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
    let [alone, mixed, _] = silent.counts();
    assert!(alone > 2 && mixed <= 1, "{:?}", silent.batches());
    silent.is_over.store(true, Ordering::Relaxed);
    world
        .until(limit, "it is asked with others", async || {
            silent.counts()[1] > mixed
        })
        .await;
    for guard in &guards {
        assert!(guard.is_valid(), "{}: {:?}", guard.key(), guard.loss());
    }
}

/// L5: of what is silent one batch is asked in vain in a round, and each has its turn: silence must not
/// take the time that others need, however many locks lie there.
pub async fn silence_costs_a_round_one_batch<F: Fixture>(world: World<F>) {
    let silent = Silent {
        batch: Some(2),
        ..Silent::default()
    };
    let connect = Twisted::connect(world.process(), silent.clone());
    let locker = world.locker_over(connect).await;
    let mut guards = Vec::new();
    for n in 0..14 {
        let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
        let key = if n < 12 { "silent" } else { "heard" };
        guards.push(
            world
                .hold_with(&locker, &format!("{key}{n}"), options)
                .await,
        );
    }
    let timing = world.timing();
    world.pass(timing.extend_every + timing.recheck_every).await;
    let begun = world.now();
    // Whoever asked all of what is silent would need six.
    let limit = timing.recheck_every + timing.request_timeout * 3;
    while world.now().since(begun) < timing.liveness_ttl * 2 {
        let before = silent.counts()[2];
        world
            .until(limit, "the others are asked about", async || {
                silent.counts()[2] > before
            })
            .await;
    }
    let batches = silent.batches().clone();
    for guard in &guards {
        let key = guard.key().to_string();
        let had_its_turn = batches.iter().any(|batch| batch.contains(&key));
        assert!(had_its_turn, "{key}: {batches:?}");
        assert!(guard.is_valid(), "{key}: {:?}", guard.loss());
    }
}

/// L5: a sound lock whose check fails once is asked about again soon, beside one lock that is silent and
/// beside many. It does not have to wait for all of these; nor is it always due just when the extension
/// of the silent one has its turn.
pub async fn who_has_failed_once_does_not_wait_for_what_is_silent<F: Fixture>(world: World<F>) {
    // So that its own extension does not come to its help.
    let t = world.timing().liveness_ttl;
    let timing = Timing {
        lock_ttl: t * 20,
        extend_every: t * 3,
        ..world.timing()
    };
    let mut kept = Vec::new();
    for many in [1, 8] {
        let silent = Silent {
            batch: Some(2),
            ..Silent::default()
        };
        let connect = Twisted::connect(world.process(), silent.clone());
        let locker = world.builder(connect).timing(timing).start();
        let locker = world.during(locker).await.expect("the locker starts");
        let names = (0..many).map(|n| format!("silent{n}"));
        let mut guards = Vec::new();
        for name in names.chain(["heard".to_owned()]) {
            let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
            let key = format!("{name} of {many}");
            guards.push(world.hold_with(&locker, &key, options).await);
        }
        kept.push((many, silent, locker, guards));
    }
    // By then all that is silent has failed more than once, and is to be extended besides.
    let by_then = timing.extend_every + timing.request_timeout * 2;
    world.pass(by_then).await;
    for (_, silent, ..) in &kept {
        silent.stumbles.store(true, Ordering::Relaxed);
    }
    let limit = timing.recheck_every * 4;
    world
        .until(limit, "a check of each fails", async || {
            kept.iter()
                .all(|(_, silent, ..)| silent.failed.load(Ordering::Relaxed) > 0)
        })
        .await;
    // One batch is asked in vain; who had to wait for all of them would wait for four.
    let limit = timing.request_timeout * 3;
    for (many, silent, ..) in &kept {
        let what = format!("it is asked about again beside {many}");
        let repeated = async || silent.has_repeated();
        world.until(limit, &what, repeated).await;
    }
}

/// F12: the record of an incarnation that has ended may lie where the store is silent. To retire it in
/// vain does not close the connection on which the locks of the next one are extended.
pub async fn retiring_in_vain_costs_no_connection<F: Fixture>(world: World<F>) {
    let (silent, counted) = (Silent::default(), Counted::new());
    let twisted = Twisted::connect(world.process(), silent.clone());
    let locker = world.locker_over(counted.around(twisted)).await;
    let timing = world.timing();
    let ended = world.hold(&locker, "ended").await;
    silent.lapses.store(true, Ordering::Relaxed);
    world
        .until(timing.liveness_ttl * 2, "it lapses", async || {
            counted.counts().of(Method::CreateProcess) > 1
        })
        .await;
    silent.lapses.store(false, Ordering::Relaxed);
    silent.keeps.store(true, Ordering::Relaxed);
    let mut guards = Vec::new();
    for key in ["silent", "heard"] {
        let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
        guards.push(world.hold_with(&locker, key, options).await);
    }
    // The silent lock has cost a few connections by then, and is to cost the next one long after this.
    world.pass(timing.liveness_ttl * 3).await;
    let before = counted.counts();
    drop(ended);
    let sent = || counted.counts().since(&before);
    let limit = timing.liveness_ttl * 2;
    world
        .until(limit, "it is to be retired", async || {
            sent().from(Side::Upkeep, Method::RetireProcess) > 0
        })
        .await;
    // Until its record has run out.
    world.pass(timing.liveness_ttl).await;
    let opened = sent().from(Side::Upkeep, Method::Connect);
    assert!(opened <= 1, "{:?}", sent());
}

/// S7, L1: what is given back elsewhere does not wait for what departs into silence, however much that
/// is; not even if it is refused once.
pub async fn what_departs_into_silence_keeps_nobody_waiting<F: Fixture>(world: World<F>) {
    let silent = Silent::default();
    let connect = Twisted::connect(world.process(), silent.clone());
    let locker = world.locker_over(connect).await;
    let guards = many_silent(&world, &locker, 200).await;
    let heard = world.hold(&locker, "heard").await;
    drop(guards);
    let timing = world.timing();
    world.pass(timing.liveness_ttl * 2).await;
    silent.refuses.store(true, Ordering::Relaxed);
    drop(heard);
    world
        .until(timing.request_timeout * 2, "it is given back", async || {
            !world.has_record("heard").await
        })
        .await;
    silent.is_over.store(true, Ordering::Relaxed);
}

/// S7, L1: it does not even wait for a first turn of those that were checked in vain, or given back in
/// vain by their callers.
pub async fn what_was_not_heard_before_departs_apart<F: Fixture>(world: World<F>) {
    for by_callers in [false, true] {
        let silent = Silent {
            // All are in one batch, of which something is answered.
            batch: world.is_virtual().then_some(10_000),
            ..Silent::default()
        };
        // A silent request is so long that a busy machine is not taken for one. Who waits for a turn that
        // is as long waits for most of it.
        let timing = scaled(world.timing().liveness_ttl * 2);
        let limit = timing.request_timeout * 3 / 4;
        let connect = Twisted::connect(world.process(), silent.clone());
        let starting = world.builder(connect).timing(timing).start();
        let locker = world.during(starting).await.unwrap();
        let guards = many_silent(&world, &locker, 50).await;
        let heard = world.hold(&locker, "heard").await;
        if by_callers {
            let releases = guards.into_iter().map(LockGuard::release);
            world.during(join_all(releases)).await;
        } else {
            let check = timing.recheck_every + timing.request_timeout;
            world.pass(check).await;
            drop(guards);
            world.pass(timing.retry_after / 5).await;
        }
        let (store, key) = (world.store().await, heard.key().clone());
        drop(heard);
        world
            .until(limit, "it is given back", async || {
                store.read_lock(&key).await.unwrap().value.is_none()
            })
            .await;
        silent.is_over.store(true, Ordering::Relaxed);
        world
            .until(timing.liveness_ttl * 4, "the others as well", async || {
                locker.keys().is_empty()
            })
            .await;
    }
}

/// Where time costs nothing, so many that they would still be having their first turn, were that a whole
/// request.
async fn many_silent<F: Fixture>(
    world: &World<F>,
    locker: &Locker,
    else_so_many: usize,
) -> Vec<LockGuard> {
    let many = if world.is_virtual() {
        2000
    } else {
        else_so_many
    };
    let mut guards = Vec::new();
    for n in 0..many {
        guards.push(world.hold(locker, &format!("silent{n}")).await);
    }
    guards
}
