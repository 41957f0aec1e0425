//! `extend` and `check`: many locks in one round trip, each with its own answer.

use crate::case::{Case, LONG};
use locker_core::OwnerHash;
use locker_core::backend::{Force, Released, Standing};

/// An extension keeps the lock beyond its first TTL.
pub async fn an_own_lock_is_extended(case: Case) {
    let process = case.process().await;
    let (ttl, (grant, standing)) = case
        .in_time(async |ttl| {
            let grant = process.acquire_for(&case.key(), ttl).await;
            let standing = process.extend(&grant.owner, LONG).await;
            (grant, standing)
        })
        .await;
    assert_eq!(standing, Standing::Mine);
    case.outlive(ttl).await;
    assert_eq!(process.check(&grant.owner).await, Standing::Mine);
}

/// An extension is the same grant: owner, token and time of acquisition stay.
pub async fn an_extension_is_the_same_grant(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let grant = process.acquire(&key).await;
    let before = process.observe(&key).await.data;
    assert_eq!(process.extend(&grant.owner, LONG * 2).await, Standing::Mine);
    let after = process.observe(&key).await.data;
    assert_eq!((after.owner, after.token), (before.owner, before.token));
    assert_eq!(after.acquired_at, before.acquired_at);
}

/// Attack 26.4: the user's extend and the Reporter's may cross; the shorter one shortens nothing.
pub async fn an_extension_never_shortens(case: Case) {
    let process = case.process().await;
    let grant = process.acquire(&case.key()).await;
    let ttl = case.unit();
    assert_eq!(process.extend(&grant.owner, ttl).await, Standing::Mine);
    case.outlive(ttl).await;
    assert_eq!(process.check(&grant.owner).await, Standing::Mine);
}

/// Attack 26.4, S5: an extension that comes too late revives nothing.
pub async fn an_expired_lock_is_not_revived(case: Case) {
    let [a, b] = case.processes().await;
    if !case.expires_locks(a.limits()) {
        return;
    }
    let key = case.key();
    let ttl = case.unit();
    let grant = a.acquire_for(&key, ttl).await;
    case.until("an expired lock reads as free", ttl, async || {
        b.read(&key).await.is_none()
    })
    .await;
    assert_eq!(a.extend(&grant.owner, LONG).await, Standing::Absent);
    assert_eq!(a.check(&grant.owner).await, Standing::Absent);
    assert!(
        b.read(&key).await.is_none(),
        "an extension that is refused revives nothing"
    );
    b.acquire(&key).await;
}

/// S5: nor does one that comes after the release.
pub async fn a_released_lock_is_not_revived(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    assert_eq!(a.release(&grant.owner).await, Released::Done);
    assert_eq!(a.extend(&grant.owner, LONG).await, Standing::Absent);
    assert!(
        b.read(&key).await.is_none(),
        "an extension that is refused revives nothing"
    );
}

/// S4: nobody extends what is another's.
pub async fn anothers_lock_is_not_extended(case: Case) {
    let [a, b] = case.processes().await;
    let (ttl, (grant, standing)) = case
        .in_time(async |ttl| {
            let grant = a.acquire_for(&case.key(), ttl).await;
            let standing = b.extend(&b.owner(grant.owner.key()), LONG).await;
            (grant, standing)
        })
        .await;
    assert_eq!(standing, Standing::Held(grant.owner.clone()));
    if case.expires_locks(a.limits()) {
        case.until(
            "another's extension has not prolonged the lock",
            ttl,
            async || a.read(grant.owner.key()).await.is_none(),
        )
        .await;
    }
}

/// Attack 15: an operator's mark refuses extension, and the owner sees it.
pub async fn a_marked_lock_is_not_extended(case: Case) {
    let process = case.process().await;
    let (ttl, (grant, marked, standing)) = case
        .in_time(async |ttl| {
            let grant = process.acquire_for(&case.key(), ttl).await;
            let marked = process.force(&grant.owner, Force::Mark).await;
            let standing = process.extend(&grant.owner, LONG).await;
            (grant, marked, standing)
        })
        .await;
    assert_eq!(marked, Released::Done);
    assert_eq!(standing, Standing::Marked);
    if case.expires_locks(process.limits()) {
        case.until("a marked lock ends with the TTL it had", ttl, async || {
            process.read(grant.owner.key()).await.is_none()
        })
        .await;
    }
}

/// A check is a read: it prolongs nothing.
pub async fn a_check_extends_nothing(case: Case) {
    let process = case.process().await;
    if !case.expires_locks(process.limits()) {
        return;
    }
    let ttl = case.unit();
    let grant = process.acquire_for(&case.key(), ttl).await;
    case.until("a lock that is only checked expires", ttl, async || {
        process.check(&grant.owner).await == Standing::Absent
    })
    .await;
}

/// One lock of every kind, and how each of them stands for its asker.
async fn one_of_each(
    case: &Case,
    process: &crate::case::Process,
    other: &crate::case::Process,
) -> (Vec<OwnerHash>, Vec<Standing>) {
    let [mine, free, theirs, marked, released, last] = case.keys();
    let mine = process.acquire(&mine).await.owner;
    let free = process.owner(&free);
    let winner = other.acquire(&theirs).await.owner;
    let theirs = process.owner(&theirs);
    let marked = process.acquire(&marked).await.owner;
    assert_eq!(process.force(&marked, Force::Mark).await, Released::Done);
    let released = process.acquire(&released).await.owner;
    assert_eq!(process.release(&released).await, Released::Done);
    let last = process.acquire(&last).await.owner;
    (
        // Neither in the order of the keys nor in that of the grants.
        vec![released, theirs, last, free, marked, mine],
        vec![
            Standing::Absent,
            Standing::Held(winner),
            Standing::Mine,
            Standing::Absent,
            Standing::Marked,
            Standing::Mine,
        ],
    )
}

/// Attack 3: every member of a batch has its own answer, in the order of the question.
pub async fn an_extended_batch_is_answered_in_order(case: Case) {
    let [a, b] = case.processes().await;
    let (owners, expected) = one_of_each(&case, &a, &b).await;
    assert_eq!(a.extend_all(&owners, LONG).await, expected);
}

/// The same for the recheck.
pub async fn a_checked_batch_is_answered_in_order(case: Case) {
    let [a, b] = case.processes().await;
    let (owners, expected) = one_of_each(&case, &a, &b).await;
    assert_eq!(a.check_all(&owners).await, expected);
}

/// L7: a batch may be as large as the store says.
pub async fn a_full_batch_is_answered(case: Case) {
    let process = case.process().await;
    let size = process.limits().batch;
    assert!(size >= 1, "a store takes batches of at least one");
    // A store that says "any number" is believed for this many.
    let owners: Vec<OwnerHash> = (0..size.min(500))
        .map(|_| process.owner(&case.key()))
        .collect();
    for owner in owners.iter().step_by(7) {
        process.acquire_as(owner.clone(), LONG).await;
    }
    let expected: Vec<Standing> = (0..owners.len())
        .map(|at| {
            if at % 7 == 0 {
                Standing::Mine
            } else {
                Standing::Absent
            }
        })
        .collect();
    assert_eq!(process.extend_all(&owners, LONG).await, expected);
    assert_eq!(process.check_all(&owners).await, expected);
}

/// Nothing asked, nothing answered.
pub async fn an_empty_batch_is_answered(case: Case) {
    let process = case.process().await;
    assert!(process.extend_all(&[], LONG).await.is_empty());
    assert!(process.check_all(&[]).await.is_empty());
}

type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Attack 33a: the extension of a held lock is never lost to somebody who merely tries to get it.
pub async fn contention_does_not_lose_a_healthy_lock(case: Case) {
    let [a, b, c] = case.processes().await;
    let key = case.key();
    let owner = a.acquire(&key).await.owner;
    let rounds = 25;
    let keeper = async move {
        for _ in 0..rounds {
            assert_eq!(a.extend(&owner, LONG).await, Standing::Mine);
            assert_eq!(a.check(&owner).await, Standing::Mine);
        }
    };
    let trier = |process: crate::case::Process| async move {
        for _ in 0..rounds {
            let owner = process.owner(&key.clone());
            crate::case::held(process.create(&owner).await, "it is held throughout");
        }
    };
    let (one, two) = (trier.clone()(b), trier(c));
    let work: [Work; 3] = [Box::pin(keeper), Box::pin(one), Box::pin(two)];
    case.at_once(work).await;
}
