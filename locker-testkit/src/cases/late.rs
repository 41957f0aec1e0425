//! `not_after` and `settle`: nothing lands arbitrarily late (S7, attack 1).

use crate::case::{Case, LONG, Process, granted};
use locker_core::StoreTime;
use locker_core::backend::{Claim, Claimed, Released, Settlement, Standing};

/// Whether the store refuses late claims by its clock. Otherwise it must say how it does.
fn has_a_clock(case: &Case) -> bool {
    let reason = case.exceptions().no_clock;
    if let Some(reason) = reason {
        assert!(
            reason.contains(' '),
            "an exception has a reason, in a sentence"
        );
    }
    reason.is_none()
}

/// Attack 1: a create that arrives after its `not_after` does nothing.
pub async fn a_late_create_is_refused(case: Case) {
    let process = case.process().await;
    if !has_a_clock(&case) {
        return;
    }
    let key = case.key();
    let claim = process.late_claim(&process.owner(&key));
    assert_eq!(process.try_create(&claim).await, Claimed::TooLate);
    assert!(
        process.read(&key).await.is_none(),
        "a claim that is too late changes nothing"
    );
}

/// Attack 1, the variant without any loss of the caller: an attempt that timed out arrives after
/// its own repetition was granted and released.
pub async fn a_late_create_does_not_land_after_its_release(case: Case) {
    let [a, b] = case.processes().await;
    if !has_a_clock(&case) {
        return;
    }
    let key = case.key();
    let grant = a.acquire(&key).await;
    assert_eq!(a.release(&grant.owner).await, Released::Done);
    let late = a.late_claim(&grant.owner);
    assert_eq!(a.try_create(&late).await, Claimed::TooLate);
    b.acquire(&key).await;
}

/// Attack 1: the repetition of a held lock's create, arriving late, prolongs nothing.
pub async fn a_late_repetition_changes_nothing(case: Case) {
    let process = case.process().await;
    if !has_a_clock(&case) || !case.expires_locks(process.limits()) {
        return;
    }
    let key = case.key();
    let ttl = case.unit();
    let grant = process.acquire_for(&key, ttl).await;
    let late = process.late_claim(&grant.owner);
    assert_eq!(process.try_create(&late).await, Claimed::TooLate);
    case.until(
        "a late repetition has not prolonged the lock",
        ttl,
        async || process.read(&key).await.is_none(),
    )
    .await;
}

/// Attack 1 for take-overs.
pub async fn a_late_take_over_is_refused(case: Case) {
    let [a, b] = case.processes().await;
    if !has_a_clock(&case) {
        return;
    }
    let key = case.key();
    a.acquire(&key).await;
    a.retire().await;
    let before = b.observe(&key).await;
    let late = b.late_claim(&b.owner(&key));
    assert_eq!(b.take_over(&late, &before.observed).await, Claimed::TooLate);
    assert_eq!(
        b.observe(&key).await.data,
        before.data,
        "too late changes nothing"
    );
    granted(
        b.rob(&b.owner(&key), &before.observed).await,
        "in time, its process being dead",
    );
}

/// The greatest time there is means "without limit", and is no number to overflow on.
pub async fn a_claim_without_limit_is_granted(case: Case) {
    let process = case.process().await;
    let claim = Claim {
        owner: process.owner(&case.key()),
        ttl: LONG,
        not_after: StoreTime::from_micros(u64::MAX),
    };
    granted(process.try_create(&claim).await, "the lock is free");
}

fn within(settlement: &Settlement) -> &Released {
    match settlement {
        Settlement::Final(released) | Settlement::Open(released) => released,
    }
}

/// Settles until it is final. On a store with a clock, that is once `not_after` has passed.
async fn settle_for_good(case: &Case, process: &Process, claim: &Claim) -> Settlement {
    let mut last = None;
    case.until(
        "an attempt is settled for good",
        case.unit() * 2,
        async || {
            let settlement = process.settle(&claim.owner, claim.not_after).await;
            let settled = matches!(settlement, Settlement::Final(_));
            last = Some(settlement);
            settled
        },
    )
    .await;
    last.expect("until looked at least once")
}

fn brief(case: &Case, process: &Process, owner: &locker_core::OwnerHash) -> Claim {
    Claim {
        owner: owner.clone(),
        ttl: LONG,
        not_after: process.later(case.unit() * 2),
    }
}

/// Attack 1: what was created under an unknown outcome is removed.
pub async fn settling_removes_what_landed(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let claim = a.claim(&a.owner(&key), LONG);
    granted(a.try_create(&claim).await, "the lock is free");
    let settlement = a.settle(&claim.owner, claim.not_after).await;
    assert_eq!(
        *within(&settlement),
        Released::Done,
        "the record was there, and is gone"
    );
    b.acquire(&key).await;
}

/// Attack 1: as long as the claim may still land, settling says so, and removes it each time.
pub async fn settling_stays_open_until_not_after(case: Case) {
    let process = case.process().await;
    if !has_a_clock(&case) {
        return;
    }
    let key = case.key();
    let claim = process.claim(&process.owner(&key), LONG);
    let open = process.settle(&claim.owner, claim.not_after).await;
    assert_eq!(
        open,
        Settlement::Open(Released::Absent),
        "not_after is far away"
    );
    for _ in 0..2 {
        granted(
            process.try_create(&claim).await,
            "it lands late, but in time",
        );
        let open = process.settle(&claim.owner, claim.not_after).await;
        assert_eq!(open, Settlement::Open(Released::Done));
        assert!(process.read(&key).await.is_none());
    }
}

/// Attack 1: once `not_after` has passed, settling is final.
pub async fn settling_is_final_after_not_after(case: Case) {
    let process = case.process().await;
    let owner = process.owner(&case.key());
    if has_a_clock(&case) {
        let last = process.settle(&owner, process.passed()).await;
        assert_eq!(
            last,
            Settlement::Final(Released::Absent),
            "not_after has passed"
        );
    }
    let claim = brief(&case, &process, &owner);
    let last = settle_for_good(&case, &process, &claim).await;
    assert_eq!(*within(&last), Released::Absent, "nothing ever landed");
}

/// Attack 1: what is settled for good lands no more.
pub async fn what_is_settled_lands_no_more(case: Case) {
    let process = case.process().await;
    if !has_a_clock(&case) {
        return;
    }
    let key = case.key();
    let claim = brief(&case, &process, &process.owner(&key));
    settle_for_good(&case, &process, &claim).await;
    assert_eq!(process.try_create(&claim).await, Claimed::TooLate);
    assert!(process.read(&key).await.is_none());
}

/// S4: settling one owner's attempt leaves another's lock alone.
pub async fn settling_leaves_anothers_lock_alone(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let attempt = brief(&case, &b, &b.owner(&key));
    let settlement = b.settle(&attempt.owner, attempt.not_after).await;
    assert_eq!(*within(&settlement), Released::Held(grant.owner.clone()));
    let last = settle_for_good(&case, &b, &attempt).await;
    assert_eq!(*within(&last), Released::Held(grant.owner.clone()));
    assert_eq!(a.check(&grant.owner).await, Standing::Mine);
}
