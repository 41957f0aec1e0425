//! Mistakes of `extend` and `check`.

use super::{locked, mistakes};
use locker_core::backend::{Claim, Claimed, Force, Released, Standing};
use locker_core::{BackendError, Effect, ErrorKind, Key, OwnerHash, StoreTime};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// A claim without limit.
fn claim(owner: &OwnerHash, ttl: Duration) -> Claim {
    Claim {
        owner: owner.clone(),
        ttl,
        not_after: StoreTime::from_micros(u64::MAX),
    }
}

/// Answers in the order of the keys, as an index yields them.
fn by_key(
    owners: &[OwnerHash],
    answers: Vec<Result<Standing, BackendError>>,
) -> Vec<Result<Standing, BackendError>> {
    let sorted: BTreeMap<&Key, _> = owners.iter().map(OwnerHash::key).zip(answers).collect();
    sorted.into_values().collect()
}

mistakes! {
    "an extension that finds nothing writes the record anew (attack 26.4)",
    "upkeep::an_expired_lock_is_not_revived" => RevivesTheExpired {} {
        extend(self, store, owners, ttl) {
            let mut reply = store.extend(owners, ttl).await?;
            for (owner, standing) in owners.iter().zip(&mut reply.value) {
                let revived = matches!(standing, Ok(Standing::Absent))
                    && matches!(
                        store.try_create(&claim(owner, ttl)).await?.value,
                        Claimed::Granted(_)
                    );
                if revived {
                    *standing = Ok(Standing::Mine);
                }
            }
            Ok(reply)
        }
    }

    "an extension is acknowledged and forgotten",
    "upkeep::an_own_lock_is_extended" => AcknowledgesOnly {} {
        extend(self, store, owners, _ttl) { store.check(owners).await }
    }

    "an extension sets its TTL, be it shorter",
    "upkeep::an_extension_never_shortens" => ShortensByExtending {} {
        extend(self, store, owners, ttl) {
            let reply = store.check(owners).await?;
            for (owner, standing) in owners.iter().zip(&reply.value) {
                if matches!(standing, Ok(Standing::Mine)) {
                    store.release(owner).await?;
                    store.try_create(&claim(owner, ttl)).await?;
                }
            }
            Ok(reply)
        }
    }

    "an extension is by key, whoever holds it",
    "upkeep::anothers_lock_is_not_extended" => ExtendsAnyones {} {
        extend(self, store, owners, ttl) {
            let reply = store.extend(owners, ttl).await?;
            for standing in reply.value.iter().flatten() {
                if let Standing::Held(other) = standing {
                    store.extend(std::slice::from_ref(other), ttl).await?;
                }
            }
            Ok(reply)
        }
    }

    "an extension overlooks the mark",
    "upkeep::a_marked_lock_is_not_extended" => ExtendsTheMarked {} {
        extend(self, store, owners, ttl) {
            let mut reply = store.extend(owners, ttl).await?;
            for standing in &mut reply.value {
                if matches!(standing, Ok(Standing::Marked)) {
                    *standing = Ok(Standing::Mine);
                }
            }
            Ok(reply)
        }
    }

    "an extended batch is answered in the order of the keys",
    "upkeep::an_extended_batch_is_answered_in_order" => AnswersExtendsByKey {} {
        extend(self, store, owners, ttl) {
            Ok(store.extend(owners, ttl).await?.map(|answers| by_key(owners, answers)))
        }
    }

    "a checked batch is answered in the order of the keys",
    "upkeep::a_checked_batch_is_answered_in_order" => AnswersChecksByKey {} {
        check(self, store, owners) {
            Ok(store.check(owners).await?.map(|answers| by_key(owners, answers)))
        }
    }

    "an extension has room for 32 locks, and the store says 64",
    "upkeep::a_full_batch_is_answered" => CutsTheBatch {} {
        extend(self, store, owners, ttl) {
            store.extend(&owners[..owners.len().min(32)], ttl).await
        }
    }

    "an empty batch is a syntax error",
    "upkeep::an_empty_batch_is_answered" => RefusesNothing {} {
        check(self, store, owners) {
            if owners.is_empty() {
                let text = "near \")\": syntax error";
                return Err(BackendError::new(ErrorKind::Rejected, Effect::NotApplied, text));
            }
            store.check(owners).await
        }
    }

    "an extension skips a row that somebody else is looking at (attack 33a)",
    "upkeep::contention_does_not_lose_a_healthy_lock" => SkipsTheLocked {
        looked_at: HashSet<Key>,
    } {
        try_create(self, store, claim) {
            locked(&self.looked_at).insert(claim.key().clone());
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            let reply = store.try_create(claim).await;
            locked(&self.looked_at).remove(claim.key());
            reply
        }
        extend(self, store, owners, ttl) {
            let skipped = |owner: &OwnerHash| locked(&self.looked_at).contains(owner.key());
            let skipped: Vec<bool> = owners.iter().map(skipped).collect();
            let mut reply = store.extend(owners, ttl).await?;
            tokio::task::yield_now().await;
            for (skipped, standing) in skipped.into_iter().zip(&mut reply.value) {
                if skipped {
                    *standing = Ok(Standing::Absent);
                }
            }
            Ok(reply)
        }
    }

    "a check extends",
    "upkeep::a_check_extends_nothing" => ExtendsByChecking {} {
        check(self, store, owners) { store.extend(owners, Duration::from_secs(60)).await }
    }

    "a check compares the owner and overlooks the mark (attack 15)",
    "force::a_mark_leaves_the_record" => OverlooksTheMark {} {
        check(self, store, owners) {
            let mut reply = store.check(owners).await?;
            for standing in &mut reply.value {
                if matches!(standing, Ok(Standing::Marked)) {
                    *standing = Ok(Standing::Mine);
                }
            }
            Ok(reply)
        }
    }

    "a check reads from a replica that has not heard of the release",
    "release::a_released_lock_is_free" => ChecksAReplica { released: HashSet<OwnerHash> } {
        release(self, store, owner) {
            let reply = store.release(owner).await?;
            if reply.value == Released::Done {
                locked(&self.released).insert(owner.clone());
            }
            Ok(reply)
        }
        check(self, store, owners) {
            let mut reply = store.check(owners).await?;
            for (owner, standing) in owners.iter().zip(&mut reply.value) {
                let late = locked(&self.released).contains(owner);
                if late && matches!(standing, Ok(Standing::Absent)) {
                    *standing = Ok(Standing::Mine);
                }
            }
            Ok(reply)
        }
    }

    "a mark stays on the key",
    "force::the_next_grant_is_unmarked" => MarksTheKey { marked: HashSet<Key> } {
        force_release(self, store, owner, force) {
            let reply = store.force_release(owner, force).await?;
            if force == Force::Mark && reply.value == Released::Done {
                locked(&self.marked).insert(owner.key().clone());
            }
            Ok(reply)
        }
        check(self, store, owners) {
            let mut reply = store.check(owners).await?;
            for (owner, standing) in owners.iter().zip(&mut reply.value) {
                let marked = locked(&self.marked).contains(owner.key());
                if marked && matches!(standing, Ok(Standing::Mine)) {
                    *standing = Ok(Standing::Marked);
                }
            }
            Ok(reply)
        }
    }
}
