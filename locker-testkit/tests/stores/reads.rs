//! Mistakes of `read_lock` and `limits`.

use super::{locked, mistakes};
use locker_core::backend::{Claimed, Limits, Liveness};
use locker_core::{BackendError, Effect, ErrorKind, Key, Timestamp};
use std::collections::HashSet;
use std::time::Duration;

mistakes! {
    "a reader sees a mark on every lock",
    "create::a_free_lock_is_granted" => SeesMarks {} {
        read_lock(self, store, key) {
            Ok(store.read_lock(key).await?.map(|held| held.map(|mut held| {
                held.marked = true;
                held
            })))
        }
    }

    "a replica has not heard of the holder's process (CU-6)",
    "read::a_held_lock_reads_the_same_to_everybody" => HasNotHeardOfTheHolder {} {
        read_lock(self, store, key) {
            Ok(store.read_lock(key).await?.map(|held| held.map(|mut held| {
                held.holder = Some(Liveness::Dead);
                held
            })))
        }
    }

    "a look counts as an extension",
    "read::reading_prolongs_nothing" => LooksLikeAnExtension {} {
        read_lock(self, store, key) {
            let reply = store.read_lock(key).await?;
            let now = reply.store_time.map_or(0, locker_core::StoreTime::as_micros);
            Ok(reply.map(|held| held.map(|mut held| {
                held.data.extended_at = Timestamp::from_micros(now);
                held
            })))
        }
    }

    "`free_in` knows the lock and not its process",
    "read::free_in_is_the_smaller_of_both_ttls" => KnowsTheLockOnly {} {
        read_lock(self, store, key) {
            Ok(store.read_lock(key).await?.map(|held| held.map(|mut held| {
                held.free_in = held.free_in.max(Duration::from_secs(120));
                held
            })))
        }
    }

    "`free_in` is always zero",
    "read::free_in_of_the_living_is_not_zero" => FreeNow {} {
        read_lock(self, store, key) {
            Ok(store.read_lock(key).await?.map(|held| held.map(|mut held| {
                held.free_in = Duration::ZERO;
                held
            })))
        }
    }

    "the lock of the dead is free only when its own TTL is over",
    "read::free_in_of_the_dead_is_zero" => WaitsForTheDead {} {
        read_lock(self, store, key) {
            Ok(store.read_lock(key).await?.map(|held| held.map(|mut held| {
                if held.holder == Some(Liveness::Dead) {
                    held.free_in = Duration::from_secs(60);
                }
                held
            })))
        }
    }

    "a lock that never was is damage",
    "read::a_free_lock_reads_as_none" => KnowsNoFreeLock { known: HashSet<Key> } {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            if matches!(reply.value, Claimed::Granted(_)) {
                locked(&self.known).insert(claim.key().clone());
            }
            Ok(reply)
        }
        read_lock(self, store, key) {
            if !locked(&self.known).contains(key) {
                let text = "no rows returned by a query that expects one";
                return Err(BackendError::new(ErrorKind::Corrupt, Effect::NotApplied, text));
            }
            store.read_lock(key).await
        }
    }

    "a reader trims the key",
    "text::hostile_keys_round_trip" => TrimsTheKey {} {
        read_lock(self, store, key) {
            let trimmed = Key::new(key.as_str().trim_end()).unwrap_or_else(|_| key.clone());
            store.read_lock(&trimmed).await
        }
    }

    "a reader has room for 255 bytes",
    "text::the_longest_names_fit" => HasRoomFor255 {} {
        read_lock(self, store, key) {
            if key.as_str().len() > 255 {
                let text = "value too long for type character varying(255)";
                return Err(BackendError::new(ErrorKind::Rejected, Effect::NotApplied, text));
            }
            store.read_lock(key).await
        }
    }

    "a batch has room for nothing",
    "read::the_limits_are_sensible" => HasNoRoom {} {
        limits(self, store) { Limits { batch: 0, ..store.limits() } }
    }
}
