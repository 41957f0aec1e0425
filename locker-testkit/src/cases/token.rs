//! Fencing tokens: of one key they strictly grow, whatever happens between two grants (S2).

use crate::case::{Case, LONG, Process, granted};
use locker_core::backend::{Claimed, Force, Released};
use locker_core::{Key, Token};
use std::time::Duration;

fn grown(before: Token, after: Token, across: &str) {
    assert!(
        after > before,
        "tokens strictly grow across {across}, but {after} was granted after {before}"
    );
}

/// Across releases, at any pace.
pub async fn tokens_grow_across_releases(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let mut last = Token::new(0);
    for round in 0..20 {
        let process = if round % 3 == 0 { &b } else { &a };
        let grant = process.acquire(&key).await;
        grown(last, grant.token, "a release");
        assert_eq!(process.release(&grant.owner).await, Released::Done);
        last = grant.token;
    }
}

/// Across the expiry of a lock.
pub async fn tokens_grow_across_expiry(case: Case) {
    let [a, b] = case.processes().await;
    if !case.expires_locks(a.limits()) {
        return;
    }
    let key = case.key();
    let ttl = case.unit();
    let mut last = a.acquire_for(&key, ttl).await.token;
    for process in [&b, &a] {
        let next = acquire_when_free(&case, process, &key, ttl).await;
        grown(last, next, "an expiry");
        last = next;
    }
}

async fn acquire_when_free(case: &Case, process: &Process, key: &Key, ttl: Duration) -> Token {
    let claim = process.claim(&process.owner(key), ttl);
    let mut token = None;
    case.until("an expired lock is granted", ttl, async || {
        if let Claimed::Granted(granted) = process.try_create(&claim).await {
            token = Some(granted);
        }
        token.is_some()
    })
    .await;
    token.expect("until answered")
}

/// Across take-overs.
pub async fn tokens_grow_across_take_overs(case: Case) {
    let key = case.key();
    let looker = case.process().await;
    let first = case.process().await;
    let mut last = first.acquire(&key).await.token;
    let mut holder = first;
    for _ in 0..3 {
        holder.retire().await;
        let next = case.process().await;
        let owner = next.owner(&key);
        let token = match looker.read(&key).await {
            Some(held) => granted(
                next.rob(&owner, &held.observed).await,
                "its process is dead",
            ),
            None => granted(next.create(&owner).await, "its process took it along"),
        };
        grown(last, token, "a take-over");
        last = token;
        holder = next;
    }
}

/// Across an operator's `--now`.
pub async fn tokens_grow_across_force_release(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let first = a.acquire(&key).await;
    assert_eq!(b.force(&first.owner, Force::Now).await, Released::Done);
    grown(first.token, b.acquire(&key).await.token, "a force release");
}

/// Across the settlement of an unknown outcome.
pub async fn tokens_grow_across_settlement(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    let first = a.acquire(&key).await;
    a.settle(&first.owner, a.later(LONG)).await;
    grown(first.token, b.acquire(&key).await.token, "a settlement");
}

/// Across restarts of everybody: the token is in the store.
pub async fn tokens_grow_across_restarts(case: Case) {
    let key = case.key();
    let mut last = Token::new(0);
    for _ in 0..4 {
        let process = case.process().await;
        let grant = process.acquire(&key).await;
        grown(last, grant.token, "a restart");
        assert_eq!(process.release(&grant.owner).await, Released::Done);
        process.retire().await;
        last = grant.token;
    }
}

/// What a reader finds is the token that the owner was given.
pub async fn the_token_that_is_read_is_the_one_that_was_granted(case: Case) {
    let [a, b] = case.processes().await;
    let key = case.key();
    for _ in 0..5 {
        let grant = a.acquire(&key).await;
        assert_eq!(b.observe(&key).await.data.token, grant.token);
        assert_eq!(a.release(&grant.owner).await, Released::Done);
    }
}

/// Attack 34b, PG-9: under contention too, in the order of the grants.
pub async fn tokens_grow_in_the_order_of_grants(case: Case) {
    super::contention::under_the_lock(&case).await;
}
