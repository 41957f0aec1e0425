//! Reading: what is there, how long it will be, and what time it is.

use crate::case::{Case, LONG};
use locker_core::StoreTime;
use locker_core::backend::Liveness;
use std::time::Duration;

/// A lock that nobody ever held reads as free.
pub async fn a_free_lock_reads_as_none(case: Case) {
    let process = case.process().await;
    assert_eq!(process.read(&case.key()).await, None);
}

/// A held lock reads the same to everybody, and its holder is not called dead.
pub async fn a_held_lock_reads_the_same_to_everybody(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    a.acquire(&key).await;
    let (mine, theirs) = (a.observe(&key).await, b.observe(&key).await);
    assert_eq!(mine.data, theirs.data);
    assert_eq!(mine.observed, theirs.observed);
    for held in [mine, theirs] {
        match held.holder {
            None | Some(Liveness::Unknown) => {}
            Some(Liveness::Alive(data)) => assert_eq!(data.process, *a.hash()),
            Some(Liveness::Dead) => panic!("the holder lives"),
        }
    }
}

/// A reader changes nothing, however often it looks.
pub async fn reading_prolongs_nothing(case: Case) {
    let [a, b] = case.processes().await;
    let ttl = case.unit();
    let mortal = case.process_for(ttl).await;
    let key = case.key();
    a.acquire(&key).await;
    let before = b.observe(&key).await;
    case.until("a process that is only read dies", ttl, async || {
        b.read(&key).await;
        b.read_process(mortal.hash()).await == Liveness::Dead
    })
    .await;
    assert_eq!(b.observe(&key).await.data, before.data);
}

/// Attack 26.1: "the holder's earliest possible death" is no later than either of its two ends.
pub async fn free_in_is_the_smaller_of_both_ttls(case: Case) {
    let process = case.process().await;
    let brief = case.unit() * 10;
    let mortal = case.process_for(brief).await;
    let [by_lock, by_process] = case.keys();
    mortal.acquire(&by_process).await;
    let left = process
        .read(&by_process)
        .await
        .map_or(Duration::ZERO, |held| held.free_in);
    assert!(
        left <= brief,
        "its process dies within {brief:?}, but free_in is {left:?}"
    );
    if case.expires_locks(process.limits()) {
        process.acquire_for(&by_lock, brief).await;
        let left = process
            .read(&by_lock)
            .await
            .map_or(Duration::ZERO, |held| held.free_in);
        assert!(
            left <= brief,
            "the lock ends within {brief:?}, but free_in is {left:?}"
        );
    }
}

/// L2: a waiter that trusts `free_in` must not be told zero while the holder has long to live, or
/// it asks without a pause.
pub async fn free_in_of_the_living_is_not_zero(case: Case) {
    let process = case.process().await;
    let key = case.key();
    process.acquire(&key).await;
    let left = process.observe(&key).await.free_in;
    assert!(
        left > Duration::ZERO && left <= LONG,
        "free_in is {left:?} for {LONG:?}"
    );
}

/// A lock whose process is dead can be had now.
pub async fn free_in_of_the_dead_is_zero(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    a.acquire(&key).await;
    a.retire().await;
    if let Some(held) = b.read(&key).await {
        assert_eq!(held.free_in, Duration::ZERO, "its process is dead");
    }
}

/// Attack 1, A3: every answer bears the store's time, which advances and never goes back.
pub async fn the_store_time_advances(case: Case) {
    let [a, b] = case.processes().await;
    let time = async |process: &crate::case::Process| -> Option<StoreTime> {
        let answer = process.backend().read_process(process.hash()).await;
        answer.expect("a healthy store answers").store_time
    };
    if let Some(reason) = case.exceptions().no_clock {
        assert!(
            reason.contains(' '),
            "an exception has a reason, in a sentence"
        );
        assert_eq!(
            time(&a).await,
            None,
            "a store without a clock shows no time"
        );
        return;
    }
    let mut last = time(&a).await.expect("every answer bears the store's time");
    for round in 0..20 {
        let now = time(if round % 2 == 0 { &b } else { &a }).await;
        let now = now.expect("every answer bears the store's time");
        assert!(
            now >= last,
            "the store's time went back from {last:?} to {now:?}"
        );
        last = now;
    }
    let start = last;
    case.outlive(case.unit()).await;
    let passed = time(&b).await.expect("every answer bears the store's time");
    assert!(
        passed >= start + case.unit() * 9 / 10,
        "a TTL of {:?} has passed, but the store's time only went from {start:?} to {passed:?}",
        case.unit()
    );
}

/// What a store says about itself is sensible, and the same on every connection.
pub async fn the_limits_are_sensible(case: Case) {
    let [a, b] = case.processes().await;
    let limits = a.limits();
    assert_eq!(limits, b.limits(), "the limits of a store never change");
    assert!(limits.batch >= 1, "a batch has room for one");
    assert!(
        limits.least_ttl <= case.unit(),
        "the cases use TTLs of {:?}",
        case.unit()
    );
    let granularity = limits.ttl_granularity.as_nanos().max(1);
    assert_eq!(
        case.unit().as_nanos() % granularity,
        0,
        "a unit is a TTL that the store keeps"
    );
}
