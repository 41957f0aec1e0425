//! Mistakes of `try_create`, and of what settles an attempt.

use super::{locked, mistakes};
use locker_core::backend::{Claim, Claimed, Force, Held, Liveness, Reply, Settlement};
use locker_core::{Effect, ErrorKind, Key, OwnerHash, ProcessData, StoreTime, Timestamp, Token};
use std::collections::HashMap;
use std::time::Duration;

mistakes! {
    "a create looks, and then writes: not atomic",
    "contention::simultaneous_creates_have_one_winner" => LooksThenWrites {} {
        try_create(self, store, claim) {
            let free = store.read_lock(claim.key()).await?.value.is_none();
            tokio::task::yield_now().await;
            if free && let Some(other) = store.read_lock(claim.key()).await?.value {
                store.force_release(&other.data.owner, Force::Now).await?;
            }
            store.try_create(claim).await
        }
    }

    "a create does not see that the record has expired",
    "create::an_expired_lock_is_granted_to_another" => OverlooksExpiry {
        granted: HashMap<Key, (Held, StoreTime)>,
    } {
        try_create(self, store, claim) {
            let before = store.read_lock(claim.key()).await?;
            let granted = locked(&self.granted).get(claim.key()).cloned();
            if let (None, Some((held, expires))) = (before.value, granted)
                && before.store_time >= Some(expires)
                && held.data.owner != claim.owner
            {
                return Ok(Reply { value: Claimed::Held(held), store_time: before.store_time });
            }
            let reply = store.try_create(claim).await?;
            if let (Claimed::Granted(_), Some(now)) = (&reply.value, reply.store_time)
                && let Some(held) = store.read_lock(claim.key()).await?.value
            {
                locked(&self.granted).insert(claim.key().clone(), (held, now + claim.ttl));
            }
            Ok(reply)
        }
    }

    "a create gives a quarter less than was asked",
    "create::a_lock_does_not_expire_early" => GivesLess {} {
        try_create(self, store, claim) {
            let claim = Claim { ttl: claim.ttl * 3 / 4, ..claim.clone() };
            store.try_create(&claim).await
        }
    }

    "a create that is too late prolongs its lock all the same",
    "late::a_late_repetition_changes_nothing" => ProlongsLate {} {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            if reply.value == Claimed::TooLate {
                let mine = std::slice::from_ref(&claim.owner);
                store.extend(mine, claim.ttl).await?;
            }
            Ok(reply)
        }
    }

    "a create finds the holder dead and helps itself (attack 4c)",
    "create::a_create_never_takes_over" => CreateTakesOver {} {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            match &reply.value {
                Claimed::Held(Held { holder: Some(Liveness::Dead), observed, .. }) => {
                    store.take_over(claim, observed).await
                }
                _ => Ok(reply),
            }
        }
    }

    "a create lands whenever it arrives (attack 1)",
    "late::a_late_create_does_not_land_after_its_release" => CreatesLate {} {
        try_create(self, store, claim) {
            let not_after = StoreTime::from_micros(u64::MAX);
            store.try_create(&Claim { not_after, ..claim.clone() }).await
        }
    }

    "a time limit without limit is a negative number",
    "late::a_claim_without_limit_is_granted" => OverflowsTheLimit {} {
        try_create(self, store, claim) {
            let micros = claim.not_after.as_micros().cast_signed();
            let not_after = StoreTime::from_micros(u64::try_from(micros).unwrap_or(0));
            store.try_create(&Claim { not_after, ..claim.clone() }).await
        }
    }

    "a repeated create finds itself in its own way (CU-7)",
    "create::a_repeated_create_answers_the_same_token" => LocksItselfOut {} {
        try_create(self, store, claim) {
            let before = store.read_lock(claim.key()).await?;
            match before.value {
                Some(held) if held.data.owner == claim.owner
                    && before.store_time <= Some(claim.not_after) =>
                {
                    Ok(Reply { value: Claimed::Held(held), store_time: before.store_time })
                }
                _ => store.try_create(claim).await,
            }
        }
    }

    "a repeated create is a new grant with a new token",
    "contention::simultaneous_repetitions_are_one_grant" => GrantsTwice {} {
        try_create(self, store, claim) {
            store.release(&claim.owner).await?;
            store.try_create(claim).await
        }
    }

    "a repeated create is answered and sets no TTL (attack 7b)",
    "create::a_repeated_create_counts_the_full_ttl_anew" => AnswersWithoutRenewing {} {
        try_create(self, store, claim) {
            let before = store.read_lock(claim.key()).await?;
            match before.value {
                Some(held) if held.data.owner == claim.owner => Ok(Reply {
                    value: Claimed::Granted(held.data.token),
                    store_time: before.store_time,
                }),
                _ => store.try_create(claim).await,
            }
        }
    }

    "a repeated create sets its TTL, be it shorter",
    "create::a_repeated_create_never_shortens" => Shortens {
        first: HashMap<OwnerHash, Token>,
    } {
        try_create(self, store, claim) {
            let mine = store.read_lock(claim.key()).await?.value;
            if mine.is_some_and(|held| held.data.owner == claim.owner) {
                store.release(&claim.owner).await?;
            } else {
                locked(&self.first).remove(&claim.owner);
            }
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::Granted(token) => {
                    let mut first = locked(&self.first);
                    Claimed::Granted(*first.entry(claim.owner.clone()).or_insert(token))
                }
                other => other,
            }))
        }
    }

    "a grant is remembered with its answer, also when it has expired",
    "create::an_expired_lock_of_the_same_owner_is_a_new_grant" => RemembersItsAnswers {
        answers: HashMap<OwnerHash, Token>,
    } {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::Granted(token) => {
                    let mut answers = locked(&self.answers);
                    Claimed::Granted(*answers.entry(claim.owner.clone()).or_insert(token))
                }
                other => other,
            }))
        }
    }

    "the dead are granted locks as well (attack 6a)",
    "create::a_create_of_a_retired_process_is_refused" => GrantsToTheDead {} {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::OwnerDead => Claimed::Granted(Token::new(1)),
                other => other,
            }))
        }
    }

    "locks are reentrant: what the process holds it may have again (PG-3)",
    "create::another_acquisition_of_the_same_process_is_refused" => IsReentrant {} {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::Held(held) if held.data.process() == claim.owner.process() => {
                    Claimed::Granted(held.data.token)
                }
                other => other,
            }))
        }
    }

    "a refused create prolongs the lock that it asked for",
    "create::a_refused_create_changes_nothing" => TouchesTheHolder {} {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            if let Claimed::Held(held) = &reply.value {
                let owner = std::slice::from_ref(&held.data.owner);
                store.extend(owner, Duration::from_secs(3600)).await?;
            }
            Ok(reply)
        }
    }

    "a refusal bears the token that comes next",
    "create::a_held_lock_is_refused_and_its_holder_named" => ShowsTheNextToken {} {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::Held(mut held) => {
                    held.data.token = Token::new(held.data.token.get() + 1);
                    Claimed::Held(held)
                }
                other => other,
            }))
        }
    }

    "a refusal says that the asker's process lives, and calls it the holder's",
    "take_over::a_refusal_tells_the_living_from_the_dead" => TellsTheAskersLife {} {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::Held(mut held) => {
                    held.holder = Some(Liveness::Alive(ProcessData {
                        process: claim.owner.process().clone(),
                        alive_at: Timestamp::from_micros(1),
                    }));
                    Claimed::Held(held)
                }
                other => other,
            }))
        }
    }

    "a refusal cuts the holder's trace at 64 bytes",
    "text::hostile_traces_round_trip" => CutsTraces {} {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::Held(mut held) if held.data.owner.as_str().len() > 300 => {
                    let owner = &held.data.owner;
                    held.data.owner =
                        OwnerHash::new(owner.key(), owner.process(), owner.seq(), None);
                    Claimed::Held(held)
                }
                other => other,
            }))
        }
    }

    "keys are compared without case",
    "text::hostile_keys_do_not_collide" => ComparesWithoutCase {} {
        try_create(self, store, claim) {
            let page = locker_core::backend::Page { after: None, limit: 1000 };
            let listed = store.list_locks("", &page).await?;
            let store_time = listed.store_time;
            let asked = claim.key().as_str();
            let same = listed.value.items.into_iter().flatten().find(|held| {
                let key = held.data.owner.key().as_str();
                key != asked && key.eq_ignore_ascii_case(asked)
            });
            match same {
                Some(held) => Ok(Reply { value: Claimed::Held(held), store_time }),
                None => store.try_create(claim).await,
            }
        }
    }

    "of more than 16 creates at a time the rest is turned away",
    "contention::creates_of_many_keys_at_once_are_all_granted" => TurnsAway {
        under_way: u32,
    } {
        try_create(self, store, claim) {
            *locked(&self.under_way) += 1;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            let under_way = std::mem::replace(&mut *locked(&self.under_way), 0);
            if under_way > 16 {
                return Err(locker_core::BackendError::new(
                    ErrorKind::Unavailable,
                    Effect::NotApplied,
                    "too many at a time",
                ));
            }
            store.try_create(claim).await
        }
    }

    "a create whose caller has left is sent after its settlement (attack 2)",
    "contention::a_dropped_create_is_settled" => SendsTheAbandoned {
        abandoned: HashMap<OwnerHash, Claim>,
    } {
        try_create(self, store, claim) {
            let owner = claim.owner.clone();
            locked(&self.abandoned).insert(owner.clone(), claim.clone());
            tokio::task::yield_now().await;
            let reply = store.try_create(claim).await;
            locked(&self.abandoned).remove(&owner);
            reply
        }
        settle(self, store, owner, not_after) {
            let reply = store.settle(owner, not_after).await?;
            let abandoned = locked(&self.abandoned).get(owner).cloned();
            if let Some(claim) = abandoned {
                store.try_create(&claim).await?;
            }
            Ok(reply)
        }
    }

    "what was deleted once is taken for settled (attack 1)",
    "late::settling_stays_open_until_not_after" => SettlesTooSoon {} {
        settle(self, store, owner, not_after) {
            let reply = store.settle(owner, not_after).await?;
            Ok(reply.map(|settlement| match settlement {
                Settlement::Open(released) | Settlement::Final(released) => {
                    Settlement::Final(released)
                }
            }))
        }
    }

    "nothing is ever settled for good",
    "late::settling_is_final_after_not_after" => NeverSettles {} {
        settle(self, store, owner, not_after) {
            let reply = store.settle(owner, not_after).await?;
            Ok(reply.map(|settlement| match settlement {
                Settlement::Open(released) | Settlement::Final(released) => {
                    Settlement::Open(released)
                }
            }))
        }
    }

    "settling looks and deletes nothing",
    "late::settling_removes_what_landed" => SettlesByLooking {} {
        settle(self, store, owner, not_after) {
            let other = OwnerHash::new(owner.key(), owner.process(), u64::MAX, None);
            store.settle(&other, not_after).await
        }
    }

    "settling deletes whatever stands under the key",
    "late::settling_leaves_anothers_lock_alone" => SettlesAnyones {} {
        settle(self, store, owner, not_after) {
            let reply = store.settle(owner, not_after).await?;
            if let Some(held) = store.read_lock(owner.key()).await?.value {
                store.release(&held.data.owner).await?;
            }
            Ok(reply)
        }
    }
}
