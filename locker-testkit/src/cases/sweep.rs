//! `sweep`: forgets what has been free or dead for long enough, and never a token too early (S2).

use crate::case::{Case, LONG};
use locker_core::backend::{Liveness, RETENTION, Released, Standing};
use std::time::Duration;

/// What is held stays held, however old it is.
pub async fn a_sweep_keeps_what_is_held(case: Case) {
    let process = case.process().await;
    let grant = process.acquire(&case.key()).await;
    case.outlive(case.unit()).await;
    process.sweep(case.unit() / 2).await;
    process.sweep(Duration::ZERO).await;
    assert_eq!(process.check(&grant.owner).await, Standing::Mine);
    let read = process.observe(grant.owner.key()).await;
    assert_eq!(read.data.token, grant.token);
}

/// The living stay alive, however long they live.
pub async fn a_sweep_keeps_the_living(case: Case) {
    let [a, b] = case.processes().await;
    case.outlive(case.unit()).await;
    a.sweep(Duration::ZERO).await;
    for process in [&a, &b] {
        assert!(matches!(process.liveness().await, Liveness::Alive(_)));
    }
}

/// S2, attack 34e: a token is forgotten only when the clock has passed it, even by a sweep that
/// forgets all it may, right after the release.
pub async fn tokens_grow_across_a_sweep(case: Case) {
    let process = case.process().await;
    for retention in [Duration::ZERO, case.unit() / 2, RETENTION] {
        let key = case.key();
        let mut last = process.acquire(&key).await;
        for _ in 0..3 {
            assert_eq!(process.release(&last.owner).await, Released::Done);
            process.sweep(retention).await;
            let next = process.acquire(&key).await;
            assert!(
                next.token > last.token,
                "{} was granted after {}, across a sweep of {retention:?}",
                next.token,
                last.token
            );
            last = next;
        }
    }
}

/// The same once the record has really been old enough to be swept.
pub async fn tokens_grow_across_a_sweep_of_the_old(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let first = process.acquire(&key).await;
    assert_eq!(process.release(&first.owner).await, Released::Done);
    case.outlive(case.unit()).await;
    process.sweep(case.unit() / 2).await;
    let next = process.acquire(&key).await;
    assert!(
        next.token > first.token,
        "{} after {}",
        next.token,
        first.token
    );
}

/// Nothing that is younger than the retention is counted as swept; a second sweep finds nothing
/// that the first has left.
pub async fn a_sweep_takes_only_the_old(case: Case) {
    let [a, b] = case.processes().await;
    for _ in 0..3 {
        let grant = a.acquire(&case.key()).await;
        assert_eq!(a.release(&grant.owner).await, Released::Done);
    }
    b.retire().await;
    assert_eq!(a.sweep(RETENTION).await, 0, "nothing is {RETENTION:?} old");
    case.outlive(case.unit()).await;
    let witnessed = case.unit() / 2;
    a.sweep(witnessed).await;
    assert_eq!(a.sweep(RETENTION).await, 0, "nothing is {RETENTION:?} old");
}

/// Attack 6c: the tombstone of a dead process outlasts a sweep that is younger than its retention.
pub async fn a_sweep_keeps_the_fresh_tombstones(case: Case) {
    let [a, b] = case.processes().await;
    b.retire().await;
    a.sweep(RETENTION).await;
    assert_eq!(
        b.create_process(LONG).await,
        locker_core::backend::Birth::Exists
    );
    assert_eq!(b.liveness().await, Liveness::Dead);
}
