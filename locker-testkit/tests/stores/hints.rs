//! Mistakes in who is woken: nothing of this is unsafe (S10), and all of it makes people wait.

use super::{Memo, locked, mistakes};
use futures_util::StreamExt;
use locker_core::backend::{Force, Hint, HintStream, Page, Watcher};
use locker_core::{BackendError, Effect, ErrorKind, Key, ProcessHash};
use std::collections::HashMap;

/// The same hints, with so many more before them.
fn behind(hints: HintStream, more: impl Fn() -> u32 + Send + 'static) -> HintStream {
    Box::pin(hints.map(move |hint| match hint {
        Hint::Free { place } => Hint::Free {
            place: place + more(),
        },
        Hint::Rebuilt => Hint::Rebuilt,
    }))
}

/// The hints of a key, without those that are to be lost.
fn silenced(hints: HintStream, key: &Key, silent: &Memo<HashMap<Key, u32>>) -> HintStream {
    let (key, silent) = (key.clone(), silent.clone());
    Box::pin(hints.filter(move |_| {
        let mut silent = locked(&silent);
        let lost = silent
            .get_mut(&key)
            .filter(|left| **left > 0)
            .map(|left| *left -= 1);
        std::future::ready(lost.is_none())
    }))
}

fn silence(silent: &Memo<HashMap<Key, u32>>, key: &Key) {
    *locked(silent).entry(key.clone()).or_default() += 1;
}

/// Counts one down when it goes.
struct Leaves(Memo<HashMap<Key, u32>>, Key);

impl Drop for Leaves {
    fn drop(&mut self) {
        silence(&self.0, &self.1);
    }
}

mistakes! {
    "every waiter is told that it is the first: a herd (CU-17, PG-11)",
    "watch::waiters_have_places_in_the_order_of_enrolment" => PutsEverybodyFirst {} {
        watch(self, store, key, watcher) {
            let hints = store.watch(key, watcher).await?;
            Ok(Box::pin(hints.map(|hint| match hint {
                Hint::Free { .. } => Hint::Free { place: 0 },
                Hint::Rebuilt => Hint::Rebuilt,
            })))
        }
    }

    "places are counted from one",
    "watch::a_release_wakes_the_waiter" => CountsFromOne {} {
        watch(self, store, key, watcher) {
            Ok(behind(store.watch(key, watcher).await?, || 1))
        }
    }

    "a watch wakes once, and then never again",
    "watch::every_release_wakes_again" => WakesOnce {} {
        watch(self, store, key, watcher) {
            let hints = store.watch(key, watcher).await?;
            Ok(Box::pin(hints.take(1).chain(futures_util::stream::pending())))
        }
    }

    "a retirement wakes nobody (L3)",
    "watch::a_retirement_of_the_holder_wakes_the_waiters_of_all_its_locks" => RetiresSilently {
        silent: HashMap<Key, u32>,
    } {
        retire_process(self, store, process) {
            let all = Page { after: None, limit: 1000 };
            for held in store.list_locks("", &all).await?.value.items.into_iter().flatten() {
                if held.data.process() == process {
                    silence(&self.silent, held.data.owner.key());
                }
            }
            store.retire_process(process).await
        }
        watch(self, store, key, watcher) {
            Ok(silenced(store.watch(key, watcher).await?, key, &self.silent))
        }
    }

    "an operator's now wakes nobody",
    "watch::force_now_wakes_the_waiter" => ForcesSilently { silent: HashMap<Key, u32> } {
        force_release(self, store, owner, force) {
            if force == Force::Now {
                silence(&self.silent, owner.key());
            }
            store.force_release(owner, force).await
        }
        watch(self, store, key, watcher) {
            Ok(silenced(store.watch(key, watcher).await?, key, &self.silent))
        }
    }

    "a settlement wakes nobody",
    "watch::a_settlement_wakes_the_waiter" => SettlesSilently { silent: HashMap<Key, u32> } {
        settle(self, store, owner, not_after) {
            silence(&self.silent, owner.key());
            store.settle(owner, not_after).await
        }
        watch(self, store, key, watcher) {
            Ok(silenced(store.watch(key, watcher).await?, key, &self.silent))
        }
    }

    "a wake-up is lost when the waiter came less than a moment before: every third one",
    "watch::a_confirmed_watch_misses_no_release" => LosesEveryThird { watched: u32 } {
        watch(self, store, key, watcher) {
            let hints = store.watch(key, watcher).await?;
            let mut count = locked(&self.watched);
            *count += 1;
            // The first few are confirmed in time, then the server is busy.
            if *count > 9 && count.is_multiple_of(3) {
                return Ok(Box::pin(hints.skip(1)));
            }
            Ok(hints)
        }
    }

    "observers stand in the line",
    "watch::observers_have_no_place" => CountsObservers { observers: HashMap<Key, u32> } {
        watch(self, store, key, watcher) {
            let hints = store.watch(key, watcher).await?;
            if *watcher == Watcher::Observer {
                silence(&self.observers, key);
                return Ok(hints);
            }
            let (key, observers) = (key.clone(), self.observers.clone());
            Ok(behind(hints, move || locked(&observers).get(&key).copied().unwrap_or(0)))
        }
    }

    "who has left still stands in the line (attack 36a)",
    "watch::a_waiter_that_leaves_frees_its_place" => KeepsWhoLeft { left: HashMap<Key, u32> } {
        watch(self, store, key, watcher) {
            let hints = store.watch(key, watcher).await?;
            let leaves = Leaves(self.left.clone(), key.clone());
            let (left, of) = (self.left.clone(), key.clone());
            Ok(behind(hints, move || {
                let _kept = &leaves;
                locked(&left).get(&of).copied().unwrap_or(0)
            }))
        }
    }

    "the dead still stand in the line (attack 36b)",
    "watch::a_dead_waiter_has_no_place" => KeepsTheDead {
        waiting: HashMap<ProcessHash, Vec<Key>>,
        dead: HashMap<Key, u32>,
    } {
        retire_process(self, store, process) {
            for key in locked(&self.waiting).remove(process).unwrap_or_default() {
                silence(&self.dead, &key);
            }
            store.retire_process(process).await
        }
        watch(self, store, key, watcher) {
            let hints = store.watch(key, watcher).await?;
            if let Watcher::Waiter(process) = watcher {
                locked(&self.waiting).entry(process.clone()).or_default().push(key.clone());
            }
            let (key, dead) = (key.clone(), self.dead.clone());
            Ok(behind(hints, move || locked(&dead).get(&key).copied().unwrap_or(0)))
        }
    }

    "a process hears of the key that it watched last",
    "watch::hints_are_about_their_key" => HearsTheLast { last: HashMap<ProcessHash, u32> } {
        watch(self, store, key, watcher) {
            let hints = store.watch(key, watcher).await?;
            let Watcher::Waiter(process) = watcher.clone() else { return Ok(hints) };
            let mine = {
                let mut last = locked(&self.last);
                let number = last.entry(process.clone()).or_default();
                *number += 1;
                *number
            };
            let last = self.last.clone();
            Ok(Box::pin(hints.filter(move |_| {
                std::future::ready(locked(&last).get(&process) == Some(&mine))
            })))
        }
    }

    "a free key cannot be watched",
    "watch::a_watch_is_confirmed" => WatchesTheHeld {} {
        watch(self, store, key, watcher) {
            if store.read_lock(key).await?.value.is_none() {
                let text = "there is nothing to watch";
                return Err(BackendError::new(ErrorKind::Rejected, Effect::NotApplied, text));
            }
            store.watch(key, watcher).await
        }
    }

    "the channel of a long key is cut, and nobody speaks on it (PG-1)",
    "text::hostile_keys_are_watched" => CutsTheChannel {} {
        watch(self, store, key, watcher) {
            let hints = store.watch(key, watcher).await?;
            if key.as_str().len() > 50 {
                return Ok(Box::pin(futures_util::stream::pending()));
            }
            Ok(hints)
        }
    }
}
