//! `release`: the owner's, once, and nobody else's (S4).

use crate::case::{Case, LONG, Process};
use locker_core::backend::{Released, Standing};
use locker_core::{Key, Trace};

/// A released lock is free at once.
pub async fn a_released_lock_is_free(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    assert_eq!(a.release(&grant.owner).await, Released::Done);
    assert!(
        b.read(&key).await.is_none(),
        "a released lock reads as free"
    );
    assert_eq!(a.check(&grant.owner).await, Standing::Absent);
    b.acquire(&key).await;
}

/// S7: a release may be repeated without harm.
pub async fn a_repeated_release_is_absent(case: Case) {
    let process = case.process().await;
    let grant = process.acquire(&case.key()).await;
    assert_eq!(process.release(&grant.owner).await, Released::Done);
    for _ in 0..2 {
        assert_eq!(process.release(&grant.owner).await, Released::Absent);
    }
}

/// There is nothing to release where nothing was ever acquired.
pub async fn a_lock_that_never_was_is_absent(case: Case) {
    let process = case.process().await;
    let owner = process.owner(&case.key());
    assert_eq!(process.release(&owner).await, Released::Absent);
}

/// S4, PG-2: a release by a former owner changes nothing.
pub async fn a_release_by_a_former_owner_changes_nothing(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let former = a.acquire(&key).await.owner;
    assert_eq!(a.release(&former).await, Released::Done);
    let owner = b.acquire(&key).await.owner;
    assert_eq!(a.release(&former).await, Released::Held(owner.clone()));
    assert_eq!(b.check(&owner).await, Standing::Mine);
}

/// S4: nor does one by an earlier acquisition of the very same process.
pub async fn a_release_by_an_earlier_acquisition_changes_nothing(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let former = process.acquire(&key).await.owner;
    assert_eq!(process.release(&former).await, Released::Done);
    let owner = process.acquire(&key).await.owner;
    assert_eq!(
        process.release(&former).await,
        Released::Held(owner.clone())
    );
    assert_eq!(process.check(&owner).await, Standing::Mine);
}

/// S4: owners are compared exactly: not by prefix, not by case, not by pattern.
pub async fn an_almost_equal_owner_releases_nothing(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let trace = |text: &str| Trace::new(text).expect("a short trace is valid");
    let hash = process.hash();
    let owner = |seq, text: Option<&str>| {
        let trace = text.map(trace);
        locker_core::OwnerHash::new(&key, hash, seq, trace.as_ref())
    };
    let real = owner(71, Some("Ticket"));
    process.acquire_as(real.clone(), LONG).await;
    for almost in [
        owner(7, Some("Ticket")),
        owner(71, None),
        owner(71, Some("ticket")),
        owner(71, Some("Ticket ")),
        owner(71, Some("Ticke_")),
        owner(71, Some("%")),
        owner(71, Some("*")),
    ] {
        assert_eq!(process.release(&almost).await, Released::Held(real.clone()));
        assert_eq!(
            process.extend(&almost, LONG).await,
            Standing::Held(real.clone())
        );
    }
    assert_eq!(process.release(&real).await, Released::Done);
}

/// An expired lock was not there to be released: the owner learns that it was too late (S6).
pub async fn an_expired_lock_is_absent_to_its_release(case: Case) {
    let process = case.process().await;
    if !case.expires_locks(process.limits()) {
        return;
    }
    let key = case.key();
    let ttl = case.unit();
    let grant = process.acquire_for(&key, ttl).await;
    case.until("an expired lock reads as free", ttl, async || {
        process.read(&key).await.is_none()
    })
    .await;
    assert_eq!(process.release(&grant.owner).await, Released::Absent);
}

/// A late release of an ended incarnation still cleans up, and at least leaves no record (S7).
pub async fn the_dead_may_still_release(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    a.retire().await;
    let released = a.release(&grant.owner).await;
    assert!(
        matches!(released, Released::Done | Released::Absent),
        "nobody else has taken the lock, but the store answers {released:?}"
    );
    b.acquire(&key).await;
}

/// Attack 3: a release and the next create of the same key, sent at the same moment, never end in
/// a free lock that was refused and left, nor in two owners.
pub async fn a_release_and_the_next_create_do_not_get_lost(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    for _ in 0..20 {
        let owner = a.acquire(&key).await.owner;
        let next = b.owner(&key);
        let left = async { a.release(&owner).await };
        let come = async { b.create(&next).await };
        let (left, come) = futures_util::future::join(left, come).await;
        assert_eq!(left, Released::Done, "the lock was its own");
        match come {
            locker_core::backend::Claimed::Granted(_) => clear(&b, &next).await,
            locker_core::backend::Claimed::Held(held) => {
                assert_eq!(held.data.owner, owner);
                free(&b, &key).await;
            }
            other => panic!("a create answers Granted or Held here, not {other:?}"),
        }
    }
}

async fn clear(process: &Process, owner: &locker_core::OwnerHash) {
    assert_eq!(
        process.check(owner).await,
        Standing::Mine,
        "a grant is a grant"
    );
    assert_eq!(process.release(owner).await, Released::Done);
}

async fn free(process: &Process, key: &Key) {
    assert!(process.read(key).await.is_none(), "a released lock is free");
}
