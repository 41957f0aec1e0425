//! `force_release`: an operator's mark, which lets the owner stop first, and `now`, which does not
//! (attack 15).

use crate::case::{Case, LONG, granted, held};
use locker_core::backend::{Force, Released, Standing};

/// A mark leaves the record: the lock stays its owner's, and everybody sees the mark.
pub async fn a_mark_leaves_the_record(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    assert_eq!(b.force(&grant.owner, Force::Mark).await, Released::Done);
    assert_eq!(a.check(&grant.owner).await, Standing::Marked);
    let seen = held(
        b.create(&b.owner(&key)).await,
        "its owner has not stopped yet",
    );
    assert_eq!(seen.data.owner, grant.owner);
    assert_eq!(seen.data.token, grant.token);
    assert!(seen.marked, "whoever waits sees the mark");
    assert!(b.observe(&key).await.marked, "whoever reads sees the mark");
}

/// S1: a marked lock of a living process is not taken over.
pub async fn a_marked_lock_of_the_living_is_not_taken_over(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    assert_eq!(b.force(&grant.owner, Force::Mark).await, Released::Done);
    let observed = b.observe(&key).await.observed;
    held(b.rob(&b.owner(&key), &observed).await, "its process lives");
}

/// The owner has seen the mark, has stopped, and lets the lock go.
pub async fn a_marked_lock_is_free_once_its_owner_releases_it(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    assert_eq!(b.force(&grant.owner, Force::Mark).await, Released::Done);
    assert_eq!(a.release(&grant.owner).await, Released::Done);
    b.acquire(&key).await;
}

/// A mark is about one grant: the next is unmarked, also for the same owner's process.
pub async fn the_next_grant_is_unmarked(case: Case) {
    let process = case.process().await;
    let key = case.key();
    let grant = process.acquire(&key).await;
    assert_eq!(
        process.force(&grant.owner, Force::Mark).await,
        Released::Done
    );
    assert_eq!(process.release(&grant.owner).await, Released::Done);
    let next = process.acquire(&key).await;
    assert_eq!(process.check(&next.owner).await, Standing::Mine);
    assert!(!process.observe(&key).await.marked);
    assert_eq!(process.extend(&next.owner, LONG).await, Standing::Mine);
}

/// The same when the next grant is a take-over.
pub async fn a_marked_lock_of_the_dead_is_taken_over_unmarked(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    assert_eq!(b.force(&grant.owner, Force::Mark).await, Released::Done);
    a.retire().await;
    let owner = b.owner(&key);
    match b.read(&key).await {
        Some(held) => granted(b.rob(&owner, &held.observed).await, "its process is dead"),
        None => granted(b.create(&owner).await, "its process took it along"),
    };
    assert_eq!(
        b.check(&owner).await,
        Standing::Mine,
        "the mark was on the dead owner's grant"
    );
    assert_eq!(b.extend(&owner, LONG).await, Standing::Mine);
}

/// A mark that nobody heeds ends with the TTL that the lock had.
pub async fn a_marked_lock_expires(case: Case) {
    let [a, b] = case.processes().await;
    if !case.expires_locks(a.limits()) {
        return;
    }
    let key = case.key();
    let ttl = case.unit();
    let grant = a.acquire_for(&key, ttl).await;
    b.force(&grant.owner, Force::Mark).await;
    case.until("a marked lock expires", ttl, async || {
        b.read(&key).await.is_none()
    })
    .await;
    b.acquire(&key).await;
}

/// Marking is repeatable, like everything else.
pub async fn a_repeated_mark_changes_nothing(case: Case) {
    let process = case.process().await;
    let grant = process.acquire(&case.key()).await;
    for _ in 0..2 {
        assert_eq!(
            process.force(&grant.owner, Force::Mark).await,
            Released::Done
        );
        assert_eq!(process.check(&grant.owner).await, Standing::Marked);
    }
}

/// `now` deletes at once, and the owner learns it at its next check.
pub async fn force_now_frees_at_once(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    assert_eq!(b.force(&grant.owner, Force::Now).await, Released::Done);
    assert!(b.read(&key).await.is_none());
    assert_eq!(a.check(&grant.owner).await, Standing::Absent);
    assert_eq!(a.extend(&grant.owner, LONG).await, Standing::Absent);
    let next = b.acquire(&key).await;
    assert_eq!(a.check(&grant.owner).await, Standing::Held(next.owner));
}

/// S4: an operator who means a former owner hits nobody else.
pub async fn force_on_a_former_owner_changes_nothing(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let former = a.acquire(&key).await.owner;
    assert_eq!(a.release(&former).await, Released::Done);
    assert_eq!(b.force(&former, Force::Mark).await, Released::Absent);
    assert_eq!(b.force(&former, Force::Now).await, Released::Absent);
    let owner = b.acquire(&key).await.owner;
    for force in [Force::Mark, Force::Now] {
        assert_eq!(a.force(&former, force).await, Released::Held(owner.clone()));
    }
    assert_eq!(b.check(&owner).await, Standing::Mine);
    assert!(!b.observe(&key).await.marked);
}
