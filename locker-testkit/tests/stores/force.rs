//! Mistakes of `force_release`.

use super::{locked, mistakes};
use locker_core::OwnerHash;
use locker_core::backend::{Force, Released};
use std::collections::HashSet;
use std::time::Duration;

mistakes! {
    "a mark forgets the TTL that the lock had",
    "force::a_marked_lock_expires" => MarksForEver {} {
        force_release(self, store, owner, force) {
            if force == Force::Mark {
                store.extend(std::slice::from_ref(owner), Duration::from_secs(3600)).await?;
            }
            store.force_release(owner, force).await
        }
    }

    "a mark that is there is not found",
    "force::a_repeated_mark_changes_nothing" => MarksOnce { marked: HashSet<OwnerHash> } {
        force_release(self, store, owner, force) {
            let reply = store.force_release(owner, force).await?;
            let first = locked(&self.marked).insert(owner.clone());
            Ok(reply.map(|released| if first { released } else { Released::Absent }))
        }
    }

    "now is only a mark",
    "force::force_now_frees_at_once" => NeverNow {} {
        force_release(self, store, owner, _force) {
            store.force_release(owner, Force::Mark).await
        }
    }

    "force is by key, whoever holds it",
    "force::force_on_a_former_owner_changes_nothing" => ForcesAnyone {} {
        force_release(self, store, owner, force) {
            match store.read_lock(owner.key()).await?.value {
                Some(held) => store.force_release(&held.data.owner, force).await,
                None => store.force_release(owner, force).await,
            }
        }
    }
}
