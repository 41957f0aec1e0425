//! The futures that are swept: every public one of the locker, in the situations that make them
//! take different ways.

// What prepares a subject may have to wait, and has one type.
#![allow(clippy::unused_async)]

use super::Output;
use super::stage::{GONE, KEY, Stage};
use crate::fixture::Fixture;
use distributed_locker::{
    AcquireError, AcquireOptions, Acquired, Force, HeartbeatPolicy, LockGuard, Locker, Wait,
};
use locker_core::backend::{Claim, Side};
use locker_core::{Host, Key, OwnerHash, ProcessHash, StoreTime};
use std::pin::Pin;
use std::time::Duration;

type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A future that is swept.
pub(super) struct Subject<F> {
    pub(super) name: &'static str,
    /// Whose first request gets into trouble.
    pub(super) side: Option<Side>,
    /// Whether it ends the locker itself, with its tasks.
    pub(super) ends_its_locker: bool,
    pub(super) prepare: for<'a> fn(&'a Stage<F>) -> Local<'a, Prepared<'a>>,
}

/// A future ready to be polled, what happens beside it, and what must live until it is gone.
pub(super) struct Prepared<'a> {
    pub(super) future: Local<'a, Output>,
    pub(super) helper: Local<'a, ()>,
    pub(super) kept: Vec<LockGuard>,
}

impl<'a> Prepared<'a> {
    fn alone(future: impl Future<Output = Output> + 'a) -> Self {
        Self {
            future: Box::pin(future),
            helper: Box::pin(async {}),
            kept: Vec::new(),
        }
    }

    fn with(mut self, helper: impl Future<Output = ()> + 'a) -> Self {
        self.helper = Box::pin(helper);
        self
    }

    fn keeping(mut self, guard: LockGuard) -> Self {
        self.kept.push(guard);
        self
    }
}

fn acquired(acquired: Result<Acquired, AcquireError>) -> Output {
    Output {
        guard: acquired.ok().and_then(Acquired::guard),
        locker: None,
    }
}

fn nothing<T>(_: T) -> Output {
    Output::default()
}

/// The list of all subjects on one store.
#[allow(clippy::upper_case_acronyms, reason = "a list of constants, as a type")]
pub(super) struct SUBJECTS<F>(std::marker::PhantomData<F>);

macro_rules! subjects {
    ($($name:literal, $side:expr, $ends:literal, $prepare:ident;)*) => {
        impl<F: Fixture> SUBJECTS<F> {
            pub(super) const LIST: &'static [Subject<F>] = &[$(Subject {
                name: $name,
                side: $side,
                ends_its_locker: $ends,
                prepare: |stage| Box::pin($prepare(stage)),
            }),*];
        }
    };
}

subjects! {
    "acquire a free lock", Some(Side::Caller), false, acquire_free;
    "acquire a held lock", Some(Side::Caller), false, acquire_held;
    "acquire, waiting for the holder", Some(Side::Caller), false, acquire_waiting;
    "acquire, in the queue behind another", Some(Side::Caller), false, acquire_in_queue;
    "acquire, waiting in vain", Some(Side::Caller), false, acquire_in_vain;
    "acquire from the dead", Some(Side::Caller), false, acquire_from_the_dead;
    "acquire_and_run", Some(Side::Caller), false, acquire_and_run;
    "mutex", Some(Side::Caller), false, mutex;
    "guard.release", Some(Side::Caller), false, release;
    "guard.extend", Some(Side::Caller), false, extend;
    "guard.lost", Some(Side::Upkeep), false, lost;
    "heartbeater.sleep, with the guard", Some(Side::Upkeep), false, sleep;
    "standby.next", Some(Side::Caller), false, standby;
    "on_release", Some(Side::Caller), false, on_release;
    "read_lock_data", Some(Side::Caller), false, read_lock_data;
    "read_owner_hash_status", Some(Side::Caller), false, read_owner_hash_status;
    "force_release, marking", Some(Side::Caller), false, force_mark;
    "force_release, now", Some(Side::Caller), false, force_now;
    "ensure_running", Some(Side::Reports), false, ensure_running;
    "events().next", None, false, events;
    "terminate", Some(Side::Reports), true, terminate;
    "builder.start", Some(Side::Reports), false, start;
    "builder.start, connecting", Some(Side::Caller), false, start;
}

async fn acquire_free<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let locker = stage.locker();
    Prepared::alone(async move { acquired(locker.acquire(KEY, AcquireOptions::new()).await) })
}

async fn acquire_held<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    acquire_free(stage).await.keeping(guard)
}

/// Lets a lock go after a while.
async fn let_go<F: Fixture>(stage: &Stage<F>, guard: LockGuard) {
    stage.world().sleep(stage.a_while()).await;
    let _ = guard.release().await;
}

async fn acquire_waiting<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let locker = stage.locker();
    Prepared::alone(async move { acquired(locker.acquire(KEY, stage.patient()).await) })
        .with(let_go(stage, guard))
}

async fn acquire_in_queue<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let (first, second) = (stage.locker(), stage.locker());
    Prepared::alone(async move {
        // The one before it has taken its place when this is polled for the second time.
        tokio::task::yield_now().await;
        acquired(second.acquire(KEY, stage.patient()).await)
    })
    .with(async move {
        let before = first.acquire(KEY, stage.patient());
        let (before, ()) = tokio::join!(before, let_go(stage, guard));
        drop(before);
    })
}

async fn acquire_in_vain<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let locker = stage.locker();
    let options = AcquireOptions::new().wait(Wait::For(stage.a_while()));
    Prepared::alone(async move { acquired(locker.acquire(KEY, options).await) }).keeping(guard)
}

async fn acquire_from_the_dead<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let store = stage.store();
    let process = ProcessHash::new(&Host::new(GONE).expect("a host name"), 7, stage.next());
    let ttl = stage.world().timing().lock_ttl;
    let claim = Claim {
        owner: OwnerHash::new(&Key::new(KEY).expect("a key"), &process, 1, None),
        ttl,
        not_after: StoreTime::from_micros(u64::MAX),
    };
    store
        .create_process(&process, ttl)
        .await
        .expect("it answers");
    store.try_create(&claim).await.expect("it answers");
    store.retire_process(&process).await.expect("it answers");
    acquire_free(stage).await
}

async fn acquire_and_run<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let locker = stage.locker();
    let pause = stage.world().timing().retry_after;
    Prepared::alone(async move {
        let run = locker.acquire_and_run(KEY, AcquireOptions::new(), async |job| {
            let _ = job.sleep(pause).await;
        });
        nothing(run.await.is_ok())
    })
}

async fn mutex<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let locker = stage.locker();
    let patience = stage.world().timing().liveness_ttl;
    Prepared::alone(async move {
        let options = AcquireOptions::new().poll_every(patience);
        let run = locker.mutex(KEY, patience, options, async |job| job.heartbeat().is_ok());
        nothing(run.await.is_ok())
    })
    .with(let_go(stage, guard))
}

async fn release<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held().await;
    Prepared::alone(async move { nothing(guard.release().await) })
}

async fn extend<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held().await;
    Prepared::alone(async move { nothing(guard.extend().await) })
}

/// The loss comes from an operator, at the next look at the lock.
async fn lost<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held().await;
    let (owner, other) = (guard.owner_hash().clone(), stage.other());
    Prepared::alone(async move { nothing(guard.lost().await) }).with(async move {
        stage.world().sleep(stage.a_while()).await;
        let _ = other.force_release(&owner, Force::Mark).await;
    })
}

async fn sleep<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held().await;
    let pause = stage.a_while();
    Prepared::alone(async move {
        let slept = guard.heartbeater().sleep(pause).await;
        drop(guard);
        nothing(slept)
    })
}

async fn standby<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let mut standby = stage.locker().standby(KEY, options).expect("a key");
    Prepared::alone(async move {
        Output {
            guard: standby.next().await.ok(),
            locker: None,
        }
    })
    .with(let_go(stage, guard))
}

async fn on_release<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let locker = stage.locker();
    Prepared::alone(async move {
        let Ok(mut releases) = locker.on_release(KEY).await else {
            return Output::default();
        };
        nothing(releases.next().await)
    })
    .with(let_go(stage, guard))
}

async fn read_lock_data<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let locker = stage.locker();
    Prepared::alone(async move { nothing(locker.read_lock_data(KEY).await) }).keeping(guard)
}

async fn read_owner_hash_status<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let (locker, owner) = (stage.locker(), guard.owner_hash().to_string());
    Prepared::alone(async move { nothing(locker.read_owner_hash_status(&owner).await) })
        .keeping(guard)
}

async fn force<F: Fixture>(stage: &Stage<F>, force: Force) -> Prepared<'_> {
    let guard = stage.held_by_other().await;
    let (locker, owner) = (stage.locker(), guard.owner_hash().clone());
    Prepared::alone(async move { nothing(locker.force_release(&owner, force).await) })
        .keeping(guard)
}

async fn force_mark<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    force(stage, Force::Mark).await
}

async fn force_now<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    force(stage, Force::Now).await
}

/// The incarnation is denied by the store, so that the next one has to be waited for.
async fn ensure_running<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let locker = stage.locker();
    let store = stage.store();
    if let Some(process) = locker.process_hash() {
        store.retire_process(&process).await.expect("it answers");
        // The next report notices it. This is no promise, only the scene, and many are set at a time.
        let limit = stage.world().timing().liveness_ttl * 5;
        let denied = async || locker.process_hash().as_ref() != Some(&process);
        stage.world().until(limit, "it is noticed", denied).await;
    }
    Prepared::alone(async move { nothing(locker.ensure_running().await) })
}

async fn events<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let locker = stage.locker();
    let guard = stage.held().await;
    let owner = guard.owner_hash().clone();
    let mut events = locker.events();
    Prepared::alone(async move { nothing(events.next().await) })
        .with(async move {
            stage.world().sleep(stage.a_while()).await;
            let _ = stage.other().force_release(&owner, Force::Mark).await;
        })
        .keeping(guard)
}

async fn terminate<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let guard = stage.held().await;
    let locker = stage.locker();
    let grace: Duration = stage.world().timing().liveness_ttl;
    Prepared::alone(async move { nothing(locker.terminate(grace).await) })
        .with(let_go(stage, guard))
}

async fn start<F: Fixture>(stage: &Stage<F>) -> Prepared<'_> {
    let starting = stage.world().builder(stage.connect()).start();
    Prepared::alone(async move {
        let locker: Option<Locker> = starting.await.ok();
        Output {
            guard: None,
            locker,
        }
    })
}
