//! Mistakes in fencing tokens: each forgets the last one on another occasion.

use super::{Memo, locked, mistakes};
use locker_core::backend::{Claimed, Force, Released, Settlement};
use locker_core::{Key, ProcessHash, Token};
use std::collections::{HashMap, HashSet};

/// The last token of each key, and the keys that have forgotten theirs.
type Known = (HashMap<Key, Token>, HashSet<Key>);

/// The same grant, but with the last token again where that was forgotten.
fn again(known: &Memo<Known>, key: &Key, claimed: Claimed) -> Claimed {
    let Claimed::Granted(token) = claimed else {
        return claimed;
    };
    let (last, forgotten) = &mut *locked(known);
    let token = match last.get(key) {
        Some(last) if forgotten.remove(key) => *last,
        _ => token,
    };
    last.insert(key.clone(), token);
    Claimed::Granted(token)
}

fn forget(known: &Memo<Known>, key: &Key) {
    locked(known).1.insert(key.clone());
}

mistakes! {
    "a release forgets the token when another process comes next",
    "token::tokens_grow_across_releases" => ForgetsAtRelease {
        known: Known,
        by: HashMap<Key, ProcessHash>,
    } {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            let key = claim.key();
            if matches!(reply.value, Claimed::Granted(_))
                && locked(&self.by).remove(key).is_some_and(|by| by != *claim.owner.process())
            {
                forget(&self.known, key);
            }
            Ok(reply.map(|claimed| again(&self.known, key, claimed)))
        }
        release(self, store, owner) {
            let reply = store.release(owner).await?;
            if reply.value == Released::Done {
                locked(&self.by).insert(owner.key().clone(), owner.process().clone());
            }
            Ok(reply)
        }
    }

    "an expiry forgets the token",
    "token::tokens_grow_across_expiry" => ForgetsAtExpiry { known: Known, held: HashSet<Key> } {
        try_create(self, store, claim) {
            let free = store.read_lock(claim.key()).await?.value.is_none();
            let key = claim.key();
            // Nobody has released it, and it is free: it has expired.
            if free && locked(&self.held).contains(key) {
                forget(&self.known, key);
            }
            locked(&self.held).insert(key.clone());
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| again(&self.known, key, claimed)))
        }
        release(self, store, owner) {
            locked(&self.held).remove(owner.key());
            store.release(owner).await
        }
        force_release(self, store, owner, force) {
            if force == Force::Now {
                locked(&self.held).remove(owner.key());
            }
            store.force_release(owner, force).await
        }
        settle(self, store, owner, not_after) {
            locked(&self.held).remove(owner.key());
            store.settle(owner, not_after).await
        }
    }

    "a take-over hands the dead owner's token on",
    "token::tokens_grow_across_take_overs" => ForgetsAtTakeOver {} {
        take_over(self, store, claim, observed) {
            let before = store.read_lock(claim.key()).await?.value;
            let reply = store.take_over(claim, observed).await?;
            Ok(reply.map(|claimed| match (claimed, before) {
                (Claimed::Granted(_), Some(before)) => Claimed::Granted(before.data.token),
                (other, _) => other,
            }))
        }
    }

    "a forced release forgets the token",
    "token::tokens_grow_across_force_release" => ForgetsAtForce { known: Known } {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| again(&self.known, claim.key(), claimed)))
        }
        force_release(self, store, owner, force) {
            let reply = store.force_release(owner, force).await?;
            if force == Force::Now && reply.value == Released::Done {
                forget(&self.known, owner.key());
            }
            Ok(reply)
        }
    }

    "a settlement forgets the token",
    "token::tokens_grow_across_settlement" => ForgetsAtSettlement { known: Known } {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| again(&self.known, claim.key(), claimed)))
        }
        settle(self, store, owner, not_after) {
            let reply = store.settle(owner, not_after).await?;
            let (Settlement::Open(released) | Settlement::Final(released)) = &reply.value;
            if *released == Released::Done {
                forget(&self.known, owner.key());
            }
            Ok(reply)
        }
    }

    "a token is forgotten with the process that had it",
    "token::tokens_grow_across_restarts" => ForgetsAtRestart {
        known: Known,
        grants: HashMap<ProcessHash, HashSet<Key>>,
    } {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            let process = claim.owner.process().clone();
            locked(&self.grants).entry(process).or_default().insert(claim.key().clone());
            Ok(reply.map(|claimed| again(&self.known, claim.key(), claimed)))
        }
        retire_process(self, store, process) {
            for key in locked(&self.grants).remove(process).unwrap_or_default() {
                forget(&self.known, &key);
            }
            store.retire_process(process).await
        }
    }

    "a sweep forgets the tokens of free locks (attack 34e)",
    "sweep::tokens_grow_across_a_sweep" => ForgetsAtSweep { known: Known } {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| again(&self.known, claim.key(), claimed)))
        }
        sweep(self, store, retention) {
            let keys: Vec<Key> = locked(&self.known).0.keys().cloned().collect();
            for key in keys {
                if store.read_lock(&key).await?.value.is_none() {
                    forget(&self.known, &key);
                }
            }
            store.sweep(retention).await
        }
    }

    "a reader is shown the token in thousands (attack 34d)",
    "token::the_token_that_is_read_is_the_one_that_was_granted" => ShowsRoundTokens {} {
        read_lock(self, store, key) {
            Ok(store.read_lock(key).await?.map(|held| held.map(|mut held| {
                held.data.token = Token::new(held.data.token.get() / 1000 * 1000);
                held
            })))
        }
    }
}
