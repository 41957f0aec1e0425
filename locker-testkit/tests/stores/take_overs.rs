//! Mistakes of `take_over`.

use super::{locked, mistakes};
use locker_core::backend::{Claim, Claimed, Force, Liveness};
use locker_core::{OwnerHash, ProcessHash, StoreTime, Token};
use std::collections::BTreeSet;
use std::time::Duration;

mistakes! {
    "a take-over compares the record and does not ask whether its process is dead (CU-3)",
    "take_over::the_lock_of_a_living_process_is_not_taken_over" => RobsTheLiving {} {
        take_over(self, store, claim, observed) {
            let reply = store.take_over(claim, observed).await?;
            match &reply.value {
                Claimed::Held(held) if held.observed == *observed => {
                    store.force_release(&held.data.owner, Force::Now).await?;
                    store.try_create(claim).await
                }
                _ => Ok(reply),
            }
        }
    }

    "a take-over takes what is there now, whatever was observed",
    "take_over::a_stale_observation_is_refused" => IgnoresTheObservation {} {
        take_over(self, store, claim, observed) {
            let present = store.read_lock(claim.key()).await?.value;
            let observed = present.map_or_else(|| observed.clone(), |held| held.observed);
            store.take_over(claim, &observed).await
        }
    }

    "a take-over looks, and then writes: not atomic",
    "contention::simultaneous_take_overs_have_one_winner" => LooksThenTakes {} {
        take_over(self, store, claim, observed) {
            let held = store.read_lock(claim.key()).await?.value;
            tokio::task::yield_now().await;
            let Some(held) = held.filter(|held| {
                held.observed == *observed && held.holder == Some(Liveness::Dead)
            }) else {
                return store.take_over(claim, observed).await;
            };
            let now = store.read_lock(claim.key()).await?.value;
            if let Some(now) = now.filter(|now| now.data.owner != held.data.owner) {
                store.force_release(&now.data.owner, Force::Now).await?;
                return store.try_create(claim).await;
            }
            store.take_over(claim, observed).await
        }
    }

    "a take-over believes an observation that it cannot read",
    "take_over::a_forged_observation_is_refused" => BelievesForgeries {} {
        take_over(self, store, claim, observed) {
            let mut observed = observed.clone();
            if observed.as_str().parse::<OwnerHash>().is_err()
                && let Some(held) = store.read_lock(claim.key()).await?.value
            {
                observed = held.observed;
            }
            store.take_over(claim, &observed).await
        }
    }

    "a take-over of nothing creates",
    "take_over::a_released_lock_is_absent_to_a_take_over" => TakesNothing {} {
        take_over(self, store, claim, observed) {
            match store.take_over(claim, observed).await? {
                reply if reply.value == Claimed::Absent => store.try_create(claim).await,
                reply => Ok(reply),
            }
        }
    }

    "a repeated take-over finds itself in its own way (attack 26.3)",
    "take_over::a_repeated_take_over_answers_the_same_token" => TakesOnce {} {
        take_over(self, store, claim, observed) {
            let before = store.read_lock(claim.key()).await?;
            match &before.value {
                Some(held) if held.data.owner == claim.owner => {
                    let held = held.clone();
                    Ok(before.map(|_| Claimed::Held(held)))
                }
                _ => store.take_over(claim, observed).await,
            }
        }
    }

    "a repeated take-over is answered and sets no TTL",
    "take_over::a_repeated_take_over_counts_the_full_ttl_anew" => TakesWithoutRenewing {} {
        take_over(self, store, claim, observed) {
            let before = store.read_lock(claim.key()).await?;
            match &before.value {
                Some(held) if held.data.owner == claim.owner => {
                    let token = held.data.token;
                    Ok(before.map(|_| Claimed::Granted(token)))
                }
                _ => store.take_over(claim, observed).await,
            }
        }
    }

    "a take-over forgets the TTL",
    "take_over::a_take_over_sets_its_own_ttl" => TakesForEver {} {
        take_over(self, store, claim, observed) {
            let ttl = Duration::from_secs(24 * 3600);
            store.take_over(&Claim { ttl, ..claim.clone() }, observed).await
        }
    }

    "the dead take over as well",
    "take_over::a_take_over_by_the_dead_is_refused" => LetsTheDeadTake {} {
        take_over(self, store, claim, observed) {
            let reply = store.take_over(claim, observed).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::OwnerDead => Claimed::Granted(Token::new(1)),
                other => other,
            }))
        }
    }

    "a take-over lands whenever it arrives (attack 1)",
    "late::a_late_take_over_is_refused" => TakesLate {} {
        take_over(self, store, claim, observed) {
            let not_after = StoreTime::from_micros(u64::MAX);
            store.take_over(&Claim { not_after, ..claim.clone() }, observed).await
        }
    }

    "only those who have retired are taken from: who has lapsed keeps its locks",
    "take_over::the_lock_of_a_lapsed_process_is_taken_over" => SparesTheLapsed {
        retired: BTreeSet<ProcessHash>,
    } {
        retire_process(self, store, process) {
            locked(&self.retired).insert(process.clone());
            store.retire_process(process).await
        }
        take_over(self, store, claim, observed) {
            let held = store.read_lock(claim.key()).await?;
            if let Some(found) = held.value.clone()
                && found.data.owner != claim.owner
                && !locked(&self.retired).contains(found.data.process())
            {
                return Ok(held.map(|_| Claimed::Held(found)));
            }
            store.take_over(claim, observed).await
        }
    }

    "a refused take-over names the asker as the holder",
    "take_over::the_lock_of_a_living_process_is_not_taken_over" => NamesTheNewHolder {} {
        take_over(self, store, claim, observed) {
            let reply = store.take_over(claim, observed).await?;
            Ok(reply.map(|claimed| match claimed {
                Claimed::Held(mut held) => {
                    held.data.owner = claim.owner.clone();
                    Claimed::Held(held)
                }
                other => other,
            }))
        }
    }

    "a marked lock is taken from the living",
    "force::a_marked_lock_of_the_living_is_not_taken_over" => TakesTheMarked {} {
        take_over(self, store, claim, observed) {
            let reply = store.take_over(claim, observed).await?;
            match &reply.value {
                Claimed::Held(held) if held.marked => {
                    store.force_release(&held.data.owner, Force::Now).await?;
                    store.try_create(claim).await
                }
                _ => Ok(reply),
            }
        }
    }
}
