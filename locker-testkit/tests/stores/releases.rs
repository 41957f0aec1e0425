//! Mistakes of `release`.

use super::mistakes;
use locker_core::backend::{Cursor, Liveness, Page, Released};

mistakes! {
    "a release deletes by key (PG-2)",
    "release::a_release_by_a_former_owner_changes_nothing" => ReleasesAnyones {} {
        release(self, store, owner) {
            match store.read_lock(owner.key()).await?.value {
                Some(held) => store.release(&held.data.owner).await,
                None => store.release(owner).await,
            }
        }
    }

    "a release compares the process and not the acquisition",
    "release::a_release_by_an_earlier_acquisition_changes_nothing" => ReleasesByProcess {} {
        release(self, store, owner) {
            match store.read_lock(owner.key()).await?.value {
                Some(held) if held.data.process() == owner.process() => {
                    store.release(&held.data.owner).await
                }
                _ => store.release(owner).await,
            }
        }
    }

    "a release that finds nothing says Done",
    "release::a_repeated_release_is_absent" => AlwaysDone {} {
        release(self, store, owner) {
            let reply = store.release(owner).await?;
            Ok(reply.map(|released| match released {
                Released::Absent => Released::Done,
                other => other,
            }))
        }
    }

    "a release names the asker as the holder",
    "take_over::the_robbed_owner_is_told_and_can_do_nothing" => NamesTheAsker {} {
        release(self, store, owner) {
            let reply = store.release(owner).await?;
            Ok(reply.map(|released| match released {
                Released::Held(_) => Released::Held(owner.clone()),
                other => other,
            }))
        }
    }

    "a release deletes, and once more by key: not atomic",
    "release::a_release_and_the_next_create_do_not_get_lost" => DeletesTwice {} {
        release(self, store, owner) {
            let reply = store.release(owner).await?;
            tokio::task::yield_now().await;
            if reply.value == Released::Done
                && let Some(next) = store.read_lock(owner.key()).await?.value
            {
                store.release(&next.data.owner).await?;
            }
            Ok(reply)
        }
    }

    "a release deletes a range of keys that is one too long",
    "create::locks_of_different_keys_are_independent" => DeletesTheNext {} {
        release(self, store, owner) {
            let after = Some(Cursor::new(owner.key().as_str()));
            let next = store.list_locks("", &Page { after, limit: 1 }).await?.value.items;
            for next in next.into_iter().flatten() {
                if next.data.process() != owner.process() {
                    store.release(&next.data.owner).await?;
                }
            }
            store.release(owner).await
        }
    }

    "the dead cannot release",
    "release::the_dead_may_still_release" => RefusesTheDead {} {
        release(self, store, owner) {
            let liveness = store.read_process(owner.process()).await?;
            match liveness.value {
                Liveness::Dead => Ok(liveness.map(|_| Released::Absent)),
                _ => store.release(owner).await,
            }
        }
    }

    "a marked record is not deleted by its owner",
    "force::a_marked_lock_is_free_once_its_owner_releases_it" => KeepsTheMarked {} {
        release(self, store, owner) {
            let before = store.read_lock(owner.key()).await?;
            if before.value.as_ref().is_some_and(|held| held.marked) {
                return Ok(before.map(|_| Released::Done));
            }
            store.release(owner).await
        }
    }
}
