//! Hints: who is woken, in which order, and that nothing is missed (L1, L3, attacks 20 and 36).

use crate::case::{Case, Process};
use locker_core::Key;
use locker_core::backend::{Force, HintStream, Released, Watcher};

/// Whether there is anything to look at.
async fn hints(case: &Case) -> bool {
    case.unborn().await.limits().hints
}

async fn released(process: &Process, owner: &locker_core::OwnerHash) {
    assert_eq!(process.release(owner).await, Released::Done);
}

/// Several waiters of one key, enrolled in this order.
async fn enrolled<const N: usize>(case: &Case, key: &Key) -> ([Process; N], Vec<HintStream>) {
    let processes = case.processes::<N>().await;
    let mut streams = Vec::new();
    for process in &processes {
        streams.push(process.wait_for(key).await);
    }
    (processes, streams)
}

/// A store without hints may be watched all the same; waiters then poll.
pub async fn a_watch_is_confirmed(case: Case) {
    let [a, b] = case.processes().await;
    let [free, taken] = case.keys();
    a.acquire(&taken).await;
    for key in [&free, &taken] {
        drop(b.wait_for(key).await);
        drop(b.watch(key, &Watcher::Observer).await);
    }
}

/// L1: a release wakes the waiter, who is first.
pub async fn a_release_wakes_the_waiter(case: Case) {
    if !hints(&case).await {
        return;
    }
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let mut waiting = b.wait_for(&key).await;
    released(&a, &grant.owner).await;
    assert_eq!(case.hint(&mut waiting, "the lock was released").await, 0);
    b.acquire(&key).await;
}

/// L3, attack 36d: so does the retirement of the holder, which frees all its locks at once.
pub async fn a_retirement_of_the_holder_wakes_the_waiters_of_all_its_locks(case: Case) {
    if !hints(&case).await {
        return;
    }
    let [a, b] = case.processes().await;
    let [one, two] = case.keys();
    a.acquire(&one).await;
    a.acquire(&two).await;
    let mut first = b.wait_for(&one).await;
    let mut second = b.wait_for(&two).await;
    a.retire().await;
    case.hint(&mut first, "the holder retired").await;
    case.hint(&mut second, "the holder retired").await;
}

/// An operator's `now` makes the lock free, so it wakes.
pub async fn force_now_wakes_the_waiter(case: Case) {
    if !hints(&case).await {
        return;
    }
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let mut waiting = b.wait_for(&key).await;
    assert_eq!(b.force(&grant.owner, Force::Now).await, Released::Done);
    case.hint(&mut waiting, "an operator freed the lock").await;
}

/// S7: what a settlement removes was free for nobody, so whoever waits is woken.
pub async fn a_settlement_wakes_the_waiter(case: Case) {
    if !hints(&case).await {
        return;
    }
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let mut waiting = b.wait_for(&key).await;
    a.settle(&grant.owner, a.later(case.unit())).await;
    case.hint(&mut waiting, "the lock was settled away").await;
}

/// One release is enough for each: a stream goes on hinting.
pub async fn every_release_wakes_again(case: Case) {
    if !hints(&case).await {
        return;
    }
    let [a, b] = case.processes().await;
    let key = case.key();
    let mut waiting = b.wait_for(&key).await;
    for _ in 0..4 {
        let grant = a.acquire(&key).await;
        released(&a, &grant.owner).await;
        case.hint(&mut waiting, "the lock was released again").await;
    }
}

/// F27: processes are placed in the order in which they came.
pub async fn waiters_have_places_in_the_order_of_enrolment(case: Case) {
    if !hints(&case).await {
        return;
    }
    let a = case.process().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let (_processes, mut streams) = enrolled::<4>(&case, &key).await;
    released(&a, &grant.owner).await;
    // All of them stay: whoever leaves makes place for those behind it.
    for (expected, stream) in (0_u32..).zip(&mut streams) {
        let place = case.hint(stream, "the lock was released").await;
        assert_eq!(
            place, expected,
            "the waiter that came after {expected} others"
        );
    }
}

/// An observer wants to know, and stands in nobody's way.
pub async fn observers_have_no_place(case: Case) {
    if !hints(&case).await {
        return;
    }
    let [a, b, c] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let mut observing = c.watch(&key, &Watcher::Observer).await;
    let mut first = b.wait_for(&key).await;
    let mut also_observing = c.watch(&key, &Watcher::Observer).await;
    let mut second = c.wait_for(&key).await;
    released(&a, &grant.owner).await;
    assert_eq!(case.hint(&mut observing, "an observer is told").await, 0);
    assert_eq!(
        case.hint(&mut also_observing, "an observer is told").await,
        0
    );
    assert_eq!(
        case.hint(&mut first, "the lock was released").await,
        0,
        "observers do not count"
    );
    assert_eq!(
        case.hint(&mut second, "the lock was released").await,
        1,
        "observers do not count"
    );
}

/// F31, attack 36a: who leaves delays nobody.
pub async fn a_waiter_that_leaves_frees_its_place(case: Case) {
    if !hints(&case).await {
        return;
    }
    let a = case.process().await;
    let key = case.key();
    let (_processes, mut streams) = enrolled::<3>(&case, &key).await;
    drop(streams.remove(0));
    // Withdrawing is not a request of its own: the store may hear of it a moment later.
    let mut last = streams.remove(1);
    case.until(
        "the place of a waiter that left is free",
        case.unit() * 4,
        async || {
            let grant = a.acquire(&key).await;
            released(&a, &grant.owner).await;
            case.hint(&mut last, "the lock was released").await == 1
        },
    )
    .await;
}

/// F27, attack 36b: the dead delay nobody for long.
pub async fn a_dead_waiter_has_no_place(case: Case) {
    if !hints(&case).await {
        return;
    }
    let a = case.process().await;
    let key = case.key();
    let (processes, mut streams) = enrolled::<3>(&case, &key).await;
    processes[0].retire().await;
    let mut last = streams.remove(2);
    case.until(
        "the place of a dead waiter is free",
        case.unit() * 4,
        async || {
            // Whoever polls removes the dead.
            let grant = a.acquire(&key).await;
            processes[1].create(&processes[1].owner(&key)).await;
            released(&a, &grant.owner).await;
            case.hint(&mut last, "the lock was released").await == 1
        },
    )
    .await;
}

/// Attack 20b, 36e: a watch that is confirmed misses no later release, however close.
pub async fn a_confirmed_watch_misses_no_release(case: Case) {
    if !hints(&case).await {
        return;
    }
    let [a, b] = case.processes().await;
    for _ in 0..15 {
        let key = case.key();
        let grant = a.acquire(&key).await;
        let mut waiting = b.wait_for(&key).await;
        let release = async { released(&a, &grant.owner).await };
        let woken = async { case.hint(&mut waiting, "the lock was released").await };
        futures_util::future::join(release, woken).await;
    }
}

/// L7: one process may wait for many keys, and each hint reaches its own key's waiter.
pub async fn hints_are_about_their_key(case: Case) {
    if !hints(&case).await {
        return;
    }
    let [a, b] = case.processes().await;
    let keys = case.keys::<8>();
    let mut waiting = Vec::new();
    for key in &keys {
        let grant = a.acquire(key).await;
        waiting.push((grant.owner, b.wait_for(key).await));
    }
    for (owner, mut hints) in waiting.into_iter().rev() {
        released(&a, &owner).await;
        case.hint(&mut hints, "the lock was released").await;
    }
}
