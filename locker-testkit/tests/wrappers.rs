//! The wrappers do to a request what they say, and nothing else.

use locker_core::backend::{Birth, Claim, Claimed, Liveness, Reply, Side};
use locker_core::memory::Memory;
use locker_core::{
    Backend, BackendError, Connect, Effect, ErrorKind, Host, Key, ManualClock, OwnerHash,
    ProcessHash, StoreTime,
};
use locker_testkit::wrap::{Counted, Fault, Faulty, Method, Scope};
use std::sync::Arc;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(60);

/// A memory store, behind a wrapper and beside it.
struct Both {
    clock: Arc<ManualClock>,
    plain: Arc<dyn Backend>,
    wrapped: Arc<dyn Connect>,
}

async fn both(wrap: impl FnOnce(Arc<dyn Connect>) -> Arc<dyn Connect>) -> Both {
    let clock = Arc::new(ManualClock::new());
    let memory: Arc<dyn Connect> = Arc::new(Memory::new(clock.clone()));
    Both {
        clock,
        plain: open(&memory, Side::Caller).await,
        wrapped: wrap(memory),
    }
}

async fn open(connect: &Arc<dyn Connect>, side: Side) -> Arc<dyn Backend> {
    connect.connect(side).await.expect("nothing is in the way")
}

fn process() -> ProcessHash {
    ProcessHash::new(&Host::new("web-1").expect("a host name"), 4711, 99)
}

fn claim() -> Claim {
    let key = Key::new("nightly").expect("a key");
    Claim {
        owner: OwnerHash::new(&key, &process(), 1, None),
        ttl: TTL,
        not_after: StoreTime::from_micros(u64::MAX),
    }
}

async fn alive(store: &Arc<dyn Backend>) -> bool {
    let reply = store.read_process(&process()).await.expect("it answers");
    matches!(reply.value, Liveness::Alive(_))
}

async fn held(store: &Arc<dyn Backend>) -> bool {
    let reply = store.read_lock(claim().key()).await.expect("it answers");
    reply.value.is_some()
}

async fn born(store: &Arc<dyn Backend>) {
    let birth = store.create_process(&process(), TTL).await;
    assert!(matches!(
        birth.expect("it answers").value,
        Birth::Created { .. }
    ));
}

fn is(error: &BackendError, kind: ErrorKind, effect: Effect) {
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error:?}");
}

fn granted(answer: Result<Reply<Claimed>, BackendError>) {
    let claimed = answer.expect("it answers").value;
    assert!(matches!(claimed, Claimed::Granted(_)), "{claimed:?}");
}

#[tokio::test]
async fn requests_are_counted_by_side_and_method() {
    let counted = Counted::new();
    let both = both(|memory| counted.around(memory)).await;
    let caller = open(&both.wrapped, Side::Caller).await;
    let reports = open(&both.wrapped, Side::Reports).await;
    born(&reports).await;
    let before = counted.counts();
    granted(caller.try_create(&claim()).await);
    granted(caller.try_create(&claim()).await);
    drop(caller.release(&claim().owner).await);
    drop(reports.renew_process(&process(), TTL).await);
    caller.limits();
    let counts = counted.counts().since(&before);
    assert_eq!(counts.from(Side::Caller, Method::TryCreate), 2);
    assert_eq!(counts.from(Side::Reports, Method::RenewProcess), 1);
    assert_eq!(counts.from(Side::Caller, Method::RenewProcess), 0);
    assert_eq!((counts.of(Method::Release), counts.total()), (1, 4));
    assert_eq!(counted.counts().of(Method::Connect), 2);
}

#[tokio::test]
async fn a_refused_request_does_nothing_and_says_so() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let store = open(&both.wrapped, Side::Caller).await;
    let outage = faulty.inject(Scope::all(), Fault::Refuse);
    let error = store.create_process(&process(), TTL).await.unwrap_err();
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    let error = both.wrapped.connect(Side::Reports).await.unwrap_err();
    is(&error, ErrorKind::Unavailable, Effect::NotApplied);
    assert!(!alive(&both.plain).await);
    outage.lift();
    born(&store).await;
    assert_eq!(faulty.struck(), 2);
}

#[tokio::test]
async fn a_lost_request_does_nothing_and_nobody_knows() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let store = open(&both.wrapped, Side::Caller).await;
    faulty.inject(
        Scope::all().of(Method::CreateProcess).once(),
        Fault::LoseRequest,
    );
    let error = store.create_process(&process(), TTL).await.unwrap_err();
    is(&error, ErrorKind::Timeout, Effect::Unknown);
    assert!(!alive(&both.plain).await);
    born(&store).await;
}

#[tokio::test]
async fn a_lost_reply_takes_effect_and_nobody_knows() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let store = open(&both.wrapped, Side::Caller).await;
    faulty.inject(
        Scope::all().of(Method::CreateProcess).once(),
        Fault::LoseReply,
    );
    let error = store.create_process(&process(), TTL).await.unwrap_err();
    is(&error, ErrorKind::Timeout, Effect::Unknown);
    assert!(alive(&both.plain).await);
}

/// F09, F29: the request lands although its caller was told that no answer came.
#[tokio::test]
async fn a_held_request_lands_when_it_is_delivered() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let store = open(&both.wrapped, Side::Caller).await;
    born(&store).await;
    faulty.inject(Scope::all().of(Method::TryCreate).once(), Fault::Hold);
    let error = store.try_create(&claim()).await.unwrap_err();
    is(&error, ErrorKind::Timeout, Effect::Unknown);
    drop(store);
    assert!(!held(&both.plain).await);
    let mut requests = faulty.take_held();
    assert_eq!(requests.len(), 1);
    let request = requests.remove(0);
    assert_eq!(request.call().method, Method::TryCreate);
    request.deliver().await;
    assert!(held(&both.plain).await);
}

/// Attack 1, with the store's own guard: delivered after `not_after`, it does nothing.
#[tokio::test]
async fn a_request_that_is_held_too_long_is_refused_by_the_store() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let store = open(&both.wrapped, Side::Caller).await;
    born(&store).await;
    let reply = store.read_process(&process()).await.expect("it answers");
    let now = reply.store_time.expect("memory has a clock");
    faulty.inject(Scope::all().of(Method::TryCreate).once(), Fault::Hold);
    let not_after = now + Duration::from_secs(3);
    let late = Claim {
        not_after,
        ..claim()
    };
    drop(store.try_create(&late).await);
    both.clock.advance(Duration::from_secs(4));
    for request in faulty.take_held() {
        request.deliver().await;
    }
    assert!(!held(&both.plain).await);
}

#[tokio::test]
async fn a_stalled_request_is_sent_when_the_stall_ends() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let store = open(&both.wrapped, Side::Caller).await;
    let stall = faulty.inject(Scope::all().of(Method::CreateProcess), Fault::Stall);
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.create_process(&process(), TTL).await }
    });
    while faulty.struck() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished() && !alive(&both.plain).await);
    stall.lift();
    waiting.await.expect("no panic").expect("it answers");
    assert!(alive(&both.plain).await);
}

/// A caller that goes away takes its stalled request with it.
#[tokio::test]
async fn a_stalled_request_whose_caller_left_is_never_sent() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let store = open(&both.wrapped, Side::Caller).await;
    faulty.inject(Scope::all().of(Method::CreateProcess), Fault::Stall);
    let patience = Duration::from_millis(1);
    let hash = process();
    let request = store.create_process(&hash, TTL);
    assert!(tokio::time::timeout(patience, request).await.is_err());
    faulty.heal();
    tokio::task::yield_now().await;
    assert!(!alive(&both.plain).await);
}

/// F05: the thread itself stands still, and only that one.
#[tokio::test]
async fn a_blocked_thread_goes_on_when_the_fault_is_lifted() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let wrapped = Arc::clone(&both.wrapped);
    let hang = faulty.inject(Scope::all().from(Side::Reports), Fault::BlockThread);
    let reporter = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async move {
            let store = open(&wrapped, Side::Reports).await;
            born(&store).await;
        });
    });
    while faulty.struck() == 0 {
        tokio::task::yield_now().await;
    }
    let caller = open(&both.wrapped, Side::Caller).await;
    assert!(
        !alive(&caller).await,
        "the other side works, and the blocked one has sent nothing"
    );
    assert!(!reporter.is_finished());
    hang.lift();
    reporter.join().expect("no panic");
    assert!(alive(&caller).await);
}

#[tokio::test]
async fn a_scope_says_which_requests() {
    let faulty = Faulty::new();
    let both = both(|memory| faulty.around(memory)).await;
    let caller = open(&both.wrapped, Side::Caller).await;
    let reports = open(&both.wrapped, Side::Reports).await;
    let scope = Scope::all().from(Side::Reports).of(Method::ReadProcess);
    faulty.inject(scope.times(2), Fault::Refuse);
    assert!(caller.read_process(&process()).await.is_ok());
    assert!(reports.read_lock(claim().key()).await.is_ok());
    assert!(reports.read_process(&process()).await.is_err());
    assert!(reports.read_process(&process()).await.is_err());
    assert!(
        reports.read_process(&process()).await.is_ok(),
        "two were meant"
    );
    assert_eq!(faulty.struck(), 2);
}
