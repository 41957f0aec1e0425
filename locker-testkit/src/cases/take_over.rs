//! `take_over`: only from the dead, only what was observed, only once (S3).

use crate::case::{Case, LONG, Process, absent, granted, held};
use locker_core::Key;
use locker_core::backend::{Claimed, Liveness, Observed, Released, Standing};

/// A lock whose process has retired; `None` where such a lock is free at once.
async fn left_by_the_dead(case: &Case, looker: &Process, key: &Key) -> Option<Observed> {
    let dead = case.process().await;
    dead.acquire(key).await;
    dead.retire().await;
    Some(looker.read(key).await?.observed)
}

/// L3: a process that has retired leaves its locks to whoever comes.
pub async fn the_lock_of_a_retired_process_is_taken_over(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let first = a.acquire(&key).await;
    a.retire().await;
    let owner = b.owner(&key);
    let token = match b.read(&key).await {
        Some(held) => granted(b.rob(&owner, &held.observed).await, "its process retired"),
        None => granted(
            b.create(&owner).await,
            "its process retired, and took it along",
        ),
    };
    assert!(
        token > first.token,
        "{token} should be greater than {}",
        first.token
    );
    assert_eq!(b.observe(&key).await.data.owner, owner);
}

/// L2: a process that has not reported for its TTL is dead, whatever its locks' own TTLs say.
pub async fn the_lock_of_a_lapsed_process_is_taken_over(case: Case) {
    let b = case.process().await;
    let (ttl, (_a, key)) = case
        .in_time(async |ttl| {
            let a = case.process_for(ttl).await;
            let key = case.key();
            a.acquire(&key).await;
            (a, key)
        })
        .await;
    let owner = b.owner(&key);
    case.until(
        "the lock of a lapsed process is taken over",
        ttl,
        async || {
            let claimed = match b.read(&key).await {
                Some(held) => b.rob(&owner, &held.observed).await,
                None => b.create(&owner).await,
            };
            matches!(claimed, Claimed::Granted(_))
        },
    )
    .await;
    assert_eq!(b.observe(&key).await.data.owner, owner);
}

/// S3: never from the living, whatever the caller has observed.
pub async fn the_lock_of_a_living_process_is_not_taken_over(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let before = b.observe(&key).await;
    let refused = held(
        b.rob(&b.owner(&key), &before.observed).await,
        "its process lives",
    );
    assert_eq!(refused.data.owner, grant.owner);
    assert_eq!(
        b.observe(&key).await.data,
        before.data,
        "a refused take-over changes nothing"
    );
    assert_eq!(a.extend(&grant.owner, LONG).await, Standing::Mine);
}

/// CU-3, attack 4: a process that renewed in time lives, although an earlier TTL of it has passed.
pub async fn a_renewed_process_is_not_robbed(case: Case) {
    let b = case.process().await;
    let (ttl, (a, grant, _)) = case
        .in_time(async |ttl| {
            let a = case.process_for(ttl).await;
            let grant = a.acquire(&case.key()).await;
            let renewal = a.renew(LONG).await;
            (a, grant, renewal)
        })
        .await;
    case.outlive_renewed(&a, ttl).await;
    let key = grant.owner.key();
    let observed = b.observe(key).await.observed;
    held(
        b.rob(&b.owner(key), &observed).await,
        "its process renewed in time",
    );
    assert_eq!(a.check(&grant.owner).await, Standing::Mine);
}

/// S3, one compare-and-set: an observation of an earlier owner is worth nothing, even when the
/// present one is dead as well.
pub async fn a_stale_observation_is_refused(case: Case) {
    let [b, c] = case.processes().await;
    let key = case.key();
    let Some(stale) = left_by_the_dead(&case, &c, &key).await else {
        return;
    };
    let second = b.owner(&key);
    granted(b.rob(&second, &stale).await, "its process is dead");
    held(
        c.rob(&c.owner(&key), &stale).await,
        "the record is not the observed one any more",
    );
    b.retire().await;
    let refused = held(
        c.rob(&c.owner(&key), &stale).await,
        "the observation is stale",
    );
    assert_eq!(refused.data.owner, second);
    let fresh = c.observe(&key).await.observed;
    granted(
        c.rob(&c.owner(&key), &fresh).await,
        "now it is the observed one",
    );
}

/// S10, S11: what no store ever said is no observation.
pub async fn a_forged_observation_is_refused(case: Case) {
    let b = case.process().await;
    let key = case.key();
    if left_by_the_dead(&case, &b, &key).await.is_none() {
        return;
    }
    let before = b.observe(&key).await;
    for forged in [
        "",
        "0",
        "-1",
        "99999999999999999999999999",
        "'; --",
        "\u{1F512} %s",
    ] {
        let answer = b
            .backend()
            .take_over(&b.claim(&b.owner(&key), LONG), &Observed::new(forged))
            .await;
        if let Ok(reply) = answer {
            held(reply.value, "the observation is a forgery");
        }
    }
    assert_eq!(b.observe(&key).await.data, before.data);
}

/// There is nothing to take over where there is no record.
pub async fn a_released_lock_is_absent_to_a_take_over(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let grant = a.acquire(&key).await;
    let observed = b.observe(&key).await.observed;
    assert_eq!(a.release(&grant.owner).await, Released::Done);
    a.retire().await;
    absent(
        &b.rob(&b.owner(&key), &observed).await,
        "its owner released it",
    );
    assert!(
        b.read(&key).await.is_none(),
        "a take-over of nothing creates nothing"
    );
}

/// The same where the record has expired.
pub async fn an_expired_lock_is_absent_to_a_take_over(case: Case) {
    let b = case.process().await;
    if !case.expires_locks(b.limits()) {
        return;
    }
    let a = case.process().await;
    let (ttl, (key, observed)) = case
        .in_time(async |ttl| {
            let key = case.key();
            a.acquire_for(&key, ttl).await;
            let observed = b.read(&key).await.map(|held| held.observed);
            (key, observed)
        })
        .await;
    let observed = observed.expect("an unexpired lock reads as held");
    a.retire().await;
    case.until("an expired lock reads as free", ttl, async || {
        b.read(&key).await.is_none()
    })
    .await;
    absent(
        &b.rob(&b.owner(&key), &observed).await,
        "the record has expired",
    );
    assert!(
        b.read(&key).await.is_none(),
        "a take-over of nothing creates nothing"
    );
}

/// Attack 26.3, CU-7: whoever repeats a take-over because its answer was lost has its lock.
pub async fn a_repeated_take_over_answers_the_same_token(case: Case) {
    let b = case.process().await;
    let key = case.key();
    let Some(observed) = left_by_the_dead(&case, &b, &key).await else {
        return;
    };
    let owner = b.owner(&key);
    let token = granted(b.rob(&owner, &observed).await, "its process is dead");
    for _ in 0..3 {
        let again = granted(b.rob(&owner, &observed).await, "it is its own, repeated");
        assert_eq!(again, token, "a repeated take-over is the same grant");
    }
    let created = granted(
        b.create(&owner).await,
        "it is its own, repeated as a create",
    );
    assert_eq!(created, token);
}

/// Attack 7b for take-overs.
pub async fn a_repeated_take_over_counts_the_full_ttl_anew(case: Case) {
    let b = case.process().await;
    let (ttl, owner) = case
        .in_time(async |ttl| {
            let key = case.key();
            let observed = left_by_the_dead(&case, &b, &key).await?;
            let owner = b.owner(&key);
            b.take_over(&b.claim(&owner, ttl), &observed).await;
            granted(b.rob(&owner, &observed).await, "it is its own, repeated");
            Some(owner)
        })
        .await;
    let Some(owner) = owner else { return };
    case.outlive(ttl).await;
    assert_eq!(b.observe(owner.key()).await.data.owner, owner);
}

/// A take-over gives the lock the taker's own TTL, not what was left of the dead owner's.
pub async fn a_take_over_sets_its_own_ttl(case: Case) {
    let b = case.process().await;
    if !case.expires_locks(b.limits()) {
        return;
    }
    let key = case.key();
    let observed = left_by_the_dead(&case, &b, &key).await;
    let observed = observed.expect("a store that keeps TTLs keeps the lock of a dead process");
    let ttl = case.unit();
    let claimed = b.take_over(&b.claim(&b.owner(&key), ttl), &observed).await;
    granted(claimed, "its process is dead");
    case.until("the taker's own TTL ends the lock", ttl, async || {
        b.read(&key).await.is_none()
    })
    .await;
}

/// S4: the robbed owner is told, and can do nothing to the record any more.
pub async fn the_robbed_owner_is_told_and_can_do_nothing(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let first = a.acquire(&key).await;
    a.retire().await;
    let second = b.owner(&key);
    match b.read(&key).await {
        Some(held) => granted(b.rob(&second, &held.observed).await, "its process is dead"),
        None => granted(b.create(&second).await, "its process took it along"),
    };
    assert_eq!(a.check(&first.owner).await, Standing::Held(second.clone()));
    assert_eq!(
        a.extend(&first.owner, LONG).await,
        Standing::Held(second.clone())
    );
    assert_eq!(
        a.release(&first.owner).await,
        Released::Held(second.clone())
    );
    assert_eq!(b.check(&second).await, Standing::Mine);
}

/// Attack 26.9: the dead take nothing over.
pub async fn a_take_over_by_the_dead_is_refused(case: Case) {
    let [b, c] = case.processes().await;
    let key = case.key();
    let Some(observed) = left_by_the_dead(&case, &c, &key).await else {
        return;
    };
    b.retire().await;
    let claimed = b.rob(&b.owner(&key), &observed).await;
    match case.exceptions().dead_claimants_unseen {
        None => assert_eq!(
            claimed,
            Claimed::OwnerDead,
            "the claimant's process is dead"
        ),
        Some(reason) => assert!(reason.contains(' '), "an exception has a reason"),
    }
    let observed = c.observe(&key).await.observed;
    granted(
        c.rob(&c.owner(&key), &observed).await,
        "whoever holds it is dead",
    );
}

/// The answer to "is the holder dead" that comes with a refusal is right where it is given.
pub async fn a_refusal_tells_the_living_from_the_dead(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    a.acquire(&key).await;
    let seen = held(b.create(&b.owner(&key)).await, "another holds it");
    match seen.holder {
        None | Some(Liveness::Unknown) => {}
        Some(Liveness::Alive(data)) => assert_eq!(data.process, *a.hash()),
        Some(Liveness::Dead) => panic!("the holder lives, but the refusal calls it dead"),
    }
    a.retire().await;
    if let Some(Liveness::Alive(data)) = b.read(&key).await.and_then(|held| held.holder) {
        panic!("the holder has retired, but read_lock says that it lives: {data:?}");
    }
}
