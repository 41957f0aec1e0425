//! Many processes at once: one winner, nothing lost (S1).

use crate::case::{Case, LONG, granted};
use locker_core::backend::{Claimed, Released, Standing};
use locker_core::{OwnerHash, Token};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn winners<T>(answers: &[(T, Claimed)]) -> Vec<&T> {
    answers
        .iter()
        .filter(|(_, claimed)| matches!(claimed, Claimed::Granted(_)))
        .map(|(owner, _)| owner)
        .collect()
}

/// S1: of creates that are sent at the same moment, one is granted, and the others are told by
/// whom they were beaten.
pub async fn simultaneous_creates_have_one_winner(case: Case) {
    let processes = case.processes::<6>().await;
    for _ in 0..5 {
        let key = case.key();
        let tries = processes.iter().cloned().map(|process| {
            let owner = process.owner(&key);
            async move {
                let claimed = process.create(&owner).await;
                (owner, claimed)
            }
        });
        let answers = case.at_once(tries).await;
        let winners = winners(&answers);
        assert_eq!(
            winners.len(),
            1,
            "one create wins, but the store answers {answers:?}"
        );
        for (owner, claimed) in &answers {
            match claimed {
                Claimed::Granted(_) => {}
                Claimed::Held(held) => assert_eq!(held.data.owner, *winners[0]),
                other => panic!("a beaten create of {owner} answers Held, not {other:?}"),
            }
        }
    }
}

/// S3: of take-overs of one dead owner, one is granted.
pub async fn simultaneous_take_overs_have_one_winner(case: Case) {
    let processes = case.processes::<6>().await;
    for _ in 0..3 {
        let key = case.key();
        let dead = case.process().await;
        dead.acquire(&key).await;
        dead.retire().await;
        let Some(held) = processes[0].read(&key).await else {
            return;
        };
        let tries = processes.iter().cloned().map(|process| {
            let (owner, observed) = (process.owner(&key), held.observed.clone());
            async move {
                let claimed = process.rob(&owner, &observed).await;
                (owner, claimed)
            }
        });
        let answers = case.at_once(tries).await;
        let winners = winners(&answers);
        assert_eq!(
            winners.len(),
            1,
            "one take-over wins, but the store answers {answers:?}"
        );
        assert_eq!(processes[0].observe(&key).await.data.owner, *winners[0]);
    }
}

/// CU-7: repetitions of one create that arrive together are one grant.
pub async fn simultaneous_repetitions_are_one_grant(case: Case) {
    let process = case.process().await;
    for _ in 0..5 {
        let owner = process.owner(&case.key());
        let tries = (0..4).map(|_| {
            let (process, owner) = (process.clone(), owner.clone());
            async move { granted(process.create(&owner).await, "all of them are the owner's") }
        });
        let tokens = case.at_once(tries).await;
        assert!(
            tokens.iter().all(|token| *token == tokens[0]),
            "repetitions answer one token, but the store answers {tokens:?}"
        );
    }
}

/// S1, the oldest test of all: a counter that everybody reads and then writes, under the lock.
pub async fn a_counter_under_the_lock_loses_nothing(case: Case) {
    under_the_lock(&case).await;
}

/// Several processes count under one lock. Fails if a step is lost or a token does not grow.
pub(super) async fn under_the_lock(case: &Case) {
    const ROUNDS: u64 = 8;
    let processes = case.processes::<4>().await;
    let key = case.key();
    let counter = Arc::new(AtomicU64::new(0));
    let highest = Arc::new(AtomicU64::new(0));
    let work = processes.iter().cloned().map(|process| {
        let (key, counter, highest) = (key.clone(), counter.clone(), highest.clone());
        async move {
            for _ in 0..ROUNDS {
                let owner = process.owner(&key);
                let token = loop {
                    match process.create(&owner).await {
                        Claimed::Granted(token) => break token,
                        Claimed::Held(_) => breathe().await,
                        other => panic!("a create answers Granted or Held here, not {other:?}"),
                    }
                };
                let before = highest.swap(token.get(), Ordering::SeqCst);
                assert!(
                    Token::new(before) < token,
                    "tokens grow in grant order, but {token} was granted after {before}"
                );
                let count = counter.load(Ordering::SeqCst);
                tokio::task::yield_now().await;
                counter.store(count + 1, Ordering::SeqCst);
                assert_eq!(process.release(&owner).await, Released::Done);
            }
        }
    });
    case.at_once(work).await;
    let steps = counter.load(Ordering::SeqCst);
    assert_eq!(
        steps,
        4 * ROUNDS,
        "steps under the lock were lost: there were two owners"
    );
}

/// Lets others go on for a moment; the next try decides, not the length of the moment.
async fn breathe() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Attacks 2 and 3: operations on many keys at once travel together and have one answer each.
pub async fn creates_of_many_keys_at_once_are_all_granted(case: Case) {
    let process = case.process().await;
    let owners: Vec<OwnerHash> = (0..48).map(|_| process.owner(&case.key())).collect();
    let tries = owners.iter().cloned().map(|owner| {
        let process = process.clone();
        async move {
            granted(process.create(&owner).await, "the lock is free");
            owner
        }
    });
    for owner in case.at_once(tries).await {
        assert_eq!(
            process.check(&owner).await,
            Standing::Mine,
            "a grant is a grant"
        );
    }
    let releases = owners.into_iter().map(|owner| {
        let process = process.clone();
        async move { process.release(&owner).await }
    });
    for released in case.at_once(releases).await {
        assert_eq!(released, Released::Done);
    }
}

/// S7, attack 2: a create whose caller went away is done or not done, and settling it leaves
/// nothing behind. Nothing else is disturbed by it.
pub async fn a_dropped_create_is_settled(case: Case) {
    let [a, b] = case.processes().await;
    let bystander = a.acquire(&case.key()).await;
    for patience in 0..12_u32 {
        let key = case.key();
        let claim = a.claim(&a.owner(&key), LONG);
        let create = a.backend().try_create(&claim);
        polled(create, patience).await;
        a.settle(&claim.owner, claim.not_after).await;
        let taken = b.create(&b.owner(&key)).await;
        if let Claimed::Held(held) = &taken {
            // It landed after the settlement, which said that it might: once more, then.
            assert_eq!(held.data.owner, claim.owner, "nobody else wants this lock");
            let limit = case.unit() * 4;
            case.until("a settled create leaves nothing", limit, async || {
                a.settle(&claim.owner, claim.not_after).await;
                a.read(&key).await.is_none()
            })
            .await;
        }
    }
    assert_eq!(a.extend(&bystander.owner, LONG).await, Standing::Mine);
}

/// Polls a future a few times, then drops it.
async fn polled(future: impl Future, times: u32) {
    let mut future = std::pin::pin!(future);
    for _ in 0..times {
        let answered = std::future::poll_fn(|context| {
            std::task::Poll::Ready(future.as_mut().poll(context).is_ready())
        });
        if answered.await {
            return;
        }
        tokio::task::yield_now().await;
    }
}
