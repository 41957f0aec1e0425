//! `try_create`: who gets a lock, for how long, and what a repetition means.

use crate::case::{Case, LONG, granted, held};
use locker_core::backend::{Claimed, Liveness, Released};
use locker_core::record::RECORD_FORMAT;

/// A free lock is granted, and the record says to whom.
pub async fn a_free_lock_is_granted(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let grant = process.acquire(&key).await;
    let held = process.observe(&key).await;
    assert_eq!(held.data.owner, grant.owner, "the record names its owner");
    assert_eq!(held.data.token, grant.token, "the record bears its token");
    assert_eq!(held.data.format, RECORD_FORMAT);
    assert!(!held.marked, "nobody has asked for the lock back");
    assert!(grant.token.get() > 0, "a token is a positive number");
}

/// S1: contention is an answer, and it says who holds the lock.
pub async fn a_held_lock_is_refused_and_its_holder_named(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let held = held(b.create(&b.owner(&key)).await, "another process holds it");
    assert_eq!(held.data.owner, grant.owner);
    assert_eq!(held.data.token, grant.token);
    assert!(!held.marked);
    assert!(
        !matches!(held.holder, Some(Liveness::Dead)),
        "the holder lives, but the store says {:?}",
        held.holder
    );
}

/// A refused create leaves the record as it was.
pub async fn a_refused_create_changes_nothing(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    a.acquire(&key).await;
    let before = a.observe(&key).await;
    for _ in 0..3 {
        // A little later, so that a record which was touched shows it.
        case.step().await;
        held(b.create(&b.owner(&key)).await, "another process holds it");
    }
    let after = a.observe(&key).await;
    assert_eq!(after.data, before.data);
    assert_eq!(after.observed, before.observed);
}

/// CU-7, S7: whoever repeats a create because its answer was lost must not find itself locked out
/// by itself.
pub async fn a_repeated_create_answers_the_same_token(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let grant = process.acquire(&key).await;
    for _ in 0..3 {
        let again = granted(
            process.create(&grant.owner).await,
            "it is its own, repeated",
        );
        assert_eq!(again, grant.token, "a repeated create is the same grant");
    }
}

/// Attack 7b: the answer to a repetition counts from its own send, so it must set the full TTL.
pub async fn a_repeated_create_counts_the_full_ttl_anew(case: Case) {
    let process = case.process().await;
    let (ttl, (owner, first, again)) = case
        .in_time(async |ttl| {
            let grant = process.acquire_for(&case.key(), ttl).await;
            let again = granted(
                process.create(&grant.owner).await,
                "it is its own, repeated",
            );
            (grant.owner, grant.token, again)
        })
        .await;
    assert_eq!(first, again, "a repeated create is the same grant");
    case.outlive(ttl).await;
    let held = process.observe(owner.key()).await;
    assert_eq!(held.data.owner, owner, "the repetition set the longer TTL");
}

/// Attack 7b, 26.4: a repetition with a shorter TTL does not shorten what was promised.
pub async fn a_repeated_create_never_shortens(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let grant = process.acquire(&key).await;
    let ttl = case.unit();
    let again = process.try_create(&process.claim(&grant.owner, ttl)).await;
    granted(again, "it is its own, repeated");
    case.outlive(ttl).await;
    assert_eq!(process.observe(&key).await.data.owner, grant.owner);
}

/// A lock that nobody extends is free once its TTL has passed, for everybody and under a greater
/// token (S2).
pub async fn an_expired_lock_is_granted_to_another(case: Case) {
    let [a, b] = case.processes().await;
    if !case.expires_locks(a.limits()) {
        return a_lock_without_ttl_stays_with_the_living(&case).await;
    }
    let key = case.key();
    let ttl = case.unit();
    let first = a.acquire_for(&key, ttl).await;
    let owner = b.owner(&key);
    let mut second = None;
    case.until("an expired lock is granted", ttl, async || {
        match b.create(&owner).await {
            Claimed::Granted(token) => second = Some(token),
            Claimed::Held(_) => {}
            other => panic!("a create answers Granted or Held here, not {other:?}"),
        }
        second.is_some()
    })
    .await;
    assert!(
        second > Some(first.token),
        "the token of the later grant should be greater than {}, but is {second:?}",
        first.token
    );
}

/// What stands in for expiry where the Reporter keeps the TTL: the store never frees it early.
async fn a_lock_without_ttl_stays_with_the_living(case: &Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire_for(&key, case.unit()).await;
    case.outlive(case.unit()).await;
    let held = held(
        b.create(&b.owner(&key)).await,
        "its process lives and keeps it",
    );
    assert_eq!(held.data.owner, grant.owner);
}

/// Attack 7: the same owner on its own *expired* record is a new grant, with a new token.
pub async fn an_expired_lock_of_the_same_owner_is_a_new_grant(case: Case) {
    let process = case.process().await;
    if !case.expires_locks(process.limits()) {
        return a_lock_without_ttl_stays_with_the_living(&case).await;
    }
    let key = case.key();
    let ttl = case.unit();
    let first = process.acquire_for(&key, ttl).await;
    case.until("an expired lock reads as free", ttl, async || {
        process.read(&key).await.is_none()
    })
    .await;
    let again = granted(process.create(&first.owner).await, "the lock is free");
    assert!(
        again > first.token,
        "{again} should be greater than {}",
        first.token
    );
}

/// S1: a record lives at least as long as it was given.
pub async fn a_lock_does_not_expire_early(case: Case) {
    let process = case.process().await;
    if !case.expires_locks(process.limits()) {
        return a_lock_without_ttl_stays_with_the_living(&case).await;
    }
    let key = case.key();
    let ttl = case.unit() * 4;
    let sent = case.elapsed();
    process.acquire_for(&key, ttl).await;
    let seen = case
        .until("an expired lock reads as free", ttl, async || {
            process.read(&key).await.is_none()
        })
        .await;
    assert!(
        // The rates of two clocks differ by at most 10 % (A1).
        seen.saturating_sub(sent) >= ttl * 9 / 10,
        "a lock for {ttl:?} was free {:?} after it was asked for",
        seen.saturating_sub(sent)
    );
}

/// Attacks 6a, 26.9: no record is written for a process that is dead. Where the store cannot see
/// that in the same round trip, the grant is worth nothing, and others see so.
pub async fn a_create_of_a_retired_process_is_refused(case: Case) {
    let [dead, other] = case.processes().await;
    dead.retire().await;
    let key = case.key();
    let claimed = dead.create(&dead.owner(&key)).await;
    the_dead_own_nothing(&case, claimed, &other, &key).await;
}

/// Attack 26.9: the same for a process that was never born.
pub async fn a_create_of_an_unborn_process_is_refused(case: Case) {
    let other = case.process().await;
    let unborn = case.unborn().await;
    let key = case.key();
    let claimed = unborn.create(&unborn.owner(&key)).await;
    the_dead_own_nothing(&case, claimed, &other, &key).await;
}

async fn the_dead_own_nothing(
    case: &Case,
    claimed: Claimed,
    other: &crate::case::Process,
    key: &locker_core::Key,
) {
    match case.exceptions().dead_claimants_unseen {
        None => {
            assert_eq!(
                claimed,
                Claimed::OwnerDead,
                "the claimant's process is dead"
            );
            other.acquire(key).await;
        }
        Some(reason) => {
            assert!(
                reason.contains(' '),
                "an exception has a reason, in a sentence"
            );
            if let Claimed::Granted(_) = claimed {
                let observed = other.observe(key).await.observed;
                granted(
                    other.rob(&other.owner(key), &observed).await,
                    "its owner is dead",
                );
            }
        }
    }
}

/// S3: a create only *reports* that the holder is dead (attack 4c: a create that acts on liveness
/// robs the living).
pub async fn a_create_never_takes_over(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    a.retire().await;
    if b.read(&key).await.is_none() {
        // The record went with its process: there is nothing to take over.
        return;
    }
    let held = held(b.create(&b.owner(&key)).await, "the record is still there");
    assert_eq!(held.data.owner, grant.owner);
    assert!(
        !matches!(held.holder, Some(Liveness::Alive(_))),
        "the holder is retired, but the store says {:?}",
        held.holder
    );
}

/// PG-3: locks are not reentrant. Another acquisition of the same process is somebody else.
pub async fn another_acquisition_of_the_same_process_is_refused(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let grant = process.acquire(&key).await;
    let second = process.owner(&key);
    let held = held(
        process.create(&second).await,
        "the process holds it already",
    );
    assert_eq!(held.data.owner, grant.owner);
    assert_eq!(
        process.release(&second).await,
        Released::Held(grant.owner.clone())
    );
    assert_eq!(process.release(&grant.owner).await, Released::Done);
}

/// One lock says nothing about another.
pub async fn locks_of_different_keys_are_independent(case: Case) {
    let [a, b] = case.processes().await;
    let [one, two] = case.keys();
    let first = a.acquire(&one).await;
    let second = b.acquire(&two).await;
    assert_eq!(a.release(&first.owner).await, Released::Done);
    assert_eq!(a.observe(&two).await.data.owner, second.owner);
    b.acquire_for(&one, LONG).await;
}
