//! Mistakes of the listings.

use super::{locked, mistakes};
use locker_core::ProcessData;
use locker_core::backend::{Cursor, Held, Observed, Page};
use locker_core::{Key, ProcessHash};
use std::collections::{BTreeMap, BTreeSet};

/// Everything at once.
const ALL: Page = Page {
    after: None,
    limit: 10_000,
};

/// The number that a cursor of this file is.
fn number(page: &Page) -> usize {
    let place = page.after.as_ref();
    place
        .and_then(|place| place.as_str().parse().ok())
        .unwrap_or(0)
}

/// Whether the text begins with what SQL's LIKE makes of the prefix.
fn is_like(text: &[u8], prefix: &[u8]) -> bool {
    match (prefix, text) {
        ([], _) => true,
        ([b'%', rest @ ..], _) => (0..=text.len()).any(|at| is_like(&text[at..], rest)),
        ([b'_', rest @ ..], [_, text @ ..]) => is_like(text, rest),
        ([one, rest @ ..], [same, text @ ..]) => one == same && is_like(text, rest),
        (_, []) => false,
    }
}

mistakes! {
    "an empty page has a next one, for ever",
    "list::an_empty_store_lists_nothing" => NeverEnds {} {
        list_locks(self, store, prefix, page) {
            let mut reply = store.list_locks(prefix, page).await?;
            if reply.value.items.is_empty() && prefix.is_empty() && page.limit == 10 {
                reply.value.next = Some(Cursor::new("again"));
            }
            Ok(reply)
        }
    }

    "a page begins with the last item of the one before",
    "list::every_held_lock_is_listed_once" => BeginsWithTheLast { last: Option<Held> } {
        list_locks(self, store, prefix, page) {
            let mut reply = store.list_locks(prefix, page).await?;
            let mut last = locked(&self.last);
            let items = &mut reply.value.items;
            if page.after.is_some() && items.len() < page.limit as usize
                && let Some(held) = last.take()
            {
                items.insert(0, Ok(held));
            }
            *last = items.iter().flatten().last().cloned();
            Ok(reply)
        }
    }

    "a page begins at a number, while locks go",
    "list::a_listing_survives_changes_between_its_pages" => PagesByNumber {} {
        list_locks(self, store, prefix, page) {
            let begin = number(page);
            let mut reply = store.list_locks(prefix, &ALL).await?;
            let mut items = reply.value.items.into_iter().skip(begin);
            let limit = page.limit as usize;
            reply.value.items = items.by_ref().take(limit).collect();
            reply.value.next = items.next().map(|_| Cursor::new((begin + limit).to_string()));
            Ok(reply)
        }
    }

    "a prefix is a pattern",
    "list::only_keys_with_the_prefix_are_listed" => PrefixIsAPattern {} {
        list_locks(self, store, prefix, page) {
            let mut all = store.list_locks("", &ALL).await?;
            all.value.items.retain(|held| held.as_ref().is_ok_and(|held| {
                is_like(held.data.owner.key().as_str().as_bytes(), prefix.as_bytes())
            }));
            let begin = number(page);
            let mut items = all.value.items.into_iter().skip(begin);
            let limit = page.limit as usize;
            all.value.items = items.by_ref().take(limit).collect();
            all.value.next = items.next().map(|_| Cursor::new((begin + limit).to_string()));
            Ok(all)
        }
    }

    "a listed lock cannot be taken over: its version is missing",
    "list::a_listed_lock_is_as_it_is_read" => ListsNoVersion {} {
        list_locks(self, store, prefix, page) {
            let mut reply = store.list_locks(prefix, page).await?;
            for held in reply.value.items.iter_mut().flatten() {
                held.observed = Observed::new("");
            }
            Ok(reply)
        }
    }

    "what is free is listed as well",
    "list::free_locks_are_not_listed" => ListsTheFree { seen: BTreeMap<Key, Held> } {
        try_create(self, store, claim) {
            let reply = store.try_create(claim).await?;
            if let Some(held) = store.read_lock(claim.key()).await?.value {
                locked(&self.seen).insert(claim.key().clone(), held);
            }
            Ok(reply)
        }
        list_locks(self, store, prefix, page) {
            let mut reply = store.list_locks(prefix, page).await?;
            if reply.value.next.is_none() && page.after.is_none() && prefix.is_empty() {
                let listed: BTreeSet<Key> = reply.value.items.iter().flatten()
                    .map(|held| held.data.owner.key().clone()).collect();
                let free = locked(&self.seen).clone().into_iter();
                let free = free.filter(|(key, _)| !listed.contains(key));
                reply.value.items.extend(free.map(|(_, held)| Ok(held)));
            }
            Ok(reply)
        }
    }

    "the dead are listed as well",
    "list::the_lapsed_are_not_listed" => ListsTheDead {
        born: BTreeSet<ProcessHash>,
    } {
        create_process(self, store, process, ttl) {
            locked(&self.born).insert(process.clone());
            store.create_process(process, ttl).await
        }
        list_processes(self, store, page) {
            let mut reply = store.list_processes(page).await?;
            if reply.value.next.is_none() && page.after.is_none() {
                let listed: BTreeSet<ProcessHash> = reply.value.items.iter().flatten()
                    .map(|data| data.process.clone()).collect();
                let alive_at = locker_core::Timestamp::from_micros(1);
                let dead = locked(&self.born).clone().into_iter();
                let dead = dead.filter(|process| !listed.contains(process));
                reply.value.items
                    .extend(dead.map(|process| Ok(ProcessData { process, alive_at })));
            }
            Ok(reply)
        }
    }

    "the first page of processes is all there is",
    "list::the_living_are_listed_once" => ListsOnePage {} {
        list_processes(self, store, page) {
            let mut reply = store.list_processes(page).await?;
            reply.value.next = None;
            Ok(reply)
        }
    }
}
