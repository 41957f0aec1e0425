//! What a locker tells of its store's clock: jumps (A3), and nothing else.

use async_trait::async_trait;
use distributed_locker::{
    Event, Events, LockGuard, Locker, ManualClock, Memory, ReporterEvent, pass,
};
use locker_core::backend::{Answer, Released, Renewal};
use locker_core::time::ClockJump;
use locker_core::{Backend, OwnerHash, ProcessHash};
use locker_testkit::wrap::{Method, Twist, Twisted};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const STEP: Duration = Duration::from_secs(3);

/// A locker on a memory store with a twist, in virtual time.
async fn locker(twist: impl Twist, clock: &Arc<ManualClock>) -> (Locker, Events) {
    let store = Twisted::connect(Arc::new(Memory::new(clock.clone())), twist);
    let locker = Locker::builder(store).clock(clock.clone()).start().await;
    let locker = locker.expect("it starts");
    let events = locker.events();
    (locker, events)
}

async fn take(locker: &Locker, key: &str) -> LockGuard {
    let guard = locker.try_acquire(key).await.expect("the store answers");
    guard.expect("it is free")
}

async fn take_and_release(locker: &Locker, key: &str) {
    let released = take(locker, key).await.release().await;
    released.expect("it is released");
}

/// The jumps that were told until the locker ended.
async fn jumps(locker: Locker, mut events: Events) -> Vec<ClockJump> {
    let ended = locker.terminate(Duration::from_secs(5)).await;
    ended.expect("nothing is left");
    drop(locker);
    let mut jumps = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Reporter(ReporterEvent::StoreClockJumped(jump)) => jumps.push(jump),
            Event::Missed(events) => panic!("{events} events were forgotten"),
            _ => {}
        }
    }
    jumps
}

/// A store of which one answer waits in its socket, because nobody looks at it.
#[derive(Debug, Clone)]
struct Late {
    clock: Arc<ManualClock>,
    method: Method,
    is_due: Arc<AtomicBool>,
}

impl Late {
    fn wait(&self, method: Method) {
        if self.method == method && self.is_due.swap(false, Ordering::Relaxed) {
            self.clock.advance(STEP);
        }
    }
}

#[async_trait]
impl Twist for Late {
    async fn release(&self, store: &dyn Backend, owner: &OwnerHash) -> Answer<Released> {
        let answer = store.release(owner).await;
        self.wait(Method::Release);
        answer
    }

    async fn renew_process(
        &self,
        store: &dyn Backend,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Renewal> {
        let answer = store.renew_process(process, ttl).await;
        self.wait(Method::RenewProcess);
        answer
    }
}

/// The runtime of the caller is blocked, or the process is stopped.
#[tokio::test]
async fn answers_that_are_looked_at_late_are_no_jumps_of_the_stores_clock() {
    for (method, is_dropped) in [
        (Method::Release, false),
        // It is the Reporter that gives it back.
        (Method::Release, true),
        (Method::RenewProcess, false),
    ] {
        let clock = Arc::new(ManualClock::new());
        let late = Late {
            clock: clock.clone(),
            method,
            is_due: Arc::default(),
        };
        let (locker, events) = locker(late.clone(), &clock).await;
        for _ in 0..5 {
            let guard = take(&locker, "k").await;
            late.is_due.store(true, Ordering::Relaxed);
            if is_dropped {
                drop(guard);
            } else {
                guard.release().await.expect("it is released");
            }
            pass(&clock, Duration::from_secs(5)).await;
            assert!(!late.is_due.load(Ordering::Relaxed), "it was late");
        }
        assert_eq!(jumps(locker, events).await, [], "{method:?}, {is_dropped}");
    }
}

/// A cluster of two primaries, whose clocks differ.
#[derive(Debug, Clone)]
struct Skewed;

#[async_trait]
impl Twist for Skewed {
    async fn release(&self, store: &dyn Backend, owner: &OwnerHash) -> Answer<Released> {
        let mut reply = store.release(owner).await?;
        if owner.key().as_str() == "ahead" {
            reply.store_time = reply.store_time.map(|told| told + STEP);
        }
        Ok(reply)
    }
}

#[tokio::test]
async fn primaries_whose_clocks_differ_are_told_once_per_recheck_and_direction() {
    let clock = Arc::new(ManualClock::new());
    let (locker, events) = locker(Skewed, &clock).await;
    let rechecks = 3;
    let pause = locker.timing().recheck_every / 100;
    for _ in 0..rechecks * 100 {
        take_and_release(&locker, "behind").await;
        take_and_release(&locker, "ahead").await;
        pass(&clock, pause).await;
    }
    let jumps = jumps(locker, events).await;
    let is_forward = |jump: &&ClockJump| matches!(jump, ClockJump::Forward(_));
    let forward = jumps.iter().filter(is_forward).count();
    assert!((1..=rechecks + 1).contains(&forward), "{jumps:?}");
    let back = jumps.len() - forward;
    assert!((1..=rechecks + 1).contains(&back), "{jumps:?}");
}

/// A store whose clock is stepped forward.
#[derive(Debug, Clone, Default)]
struct Stepped(Arc<AtomicBool>);

#[async_trait]
impl Twist for Stepped {
    async fn renew_process(
        &self,
        store: &dyn Backend,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Renewal> {
        let mut reply = store.renew_process(process, ttl).await?;
        if self.0.load(Ordering::Relaxed) {
            reply.store_time = reply.store_time.map(|told| told + STEP);
        }
        Ok(reply)
    }
}

/// A3.
#[tokio::test]
async fn a_step_of_the_stores_clock_is_told_once() {
    let clock = Arc::new(ManualClock::new());
    let stepped = Stepped::default();
    let (locker, events) = locker(stepped.clone(), &clock).await;
    pass(&clock, Duration::from_secs(30)).await;
    stepped.0.store(true, Ordering::Relaxed);
    pass(&clock, Duration::from_secs(30)).await;
    assert_eq!(jumps(locker, events).await, [ClockJump::Forward(STEP)]);
}
