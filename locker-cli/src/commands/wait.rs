//! `wait`: until a lock is free, without taking it and without delaying those who want it.

use crate::args::Patience;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, alive, printable};
use crate::store::Store;
use futures_util::StreamExt;
use futures_util::future::OptionFuture;
use locker_core::Key;
use locker_core::backend::Watcher;
use serde_json::json;
use std::pin::pin;
use std::time::Duration;

/// How often it looks without having been told to.
const POLL: Duration = Duration::from_millis(500);

/// `locker wait KEY`.
pub(super) async fn wait(
    store: &Store,
    key: &Key,
    patience: Patience,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let free = is_free_within(store, key, patience).await?;
    if out.is_json() {
        out.value(&json!({ "key": key.as_str(), "held": !free }))?;
    } else if !free {
        return Err(Failure::new(
            Exit::BUSY,
            format!("{} is still held", printable(key.as_str())),
        )
        .hint("`locker show KEY` says by whom"));
    }
    Ok(if free { Exit::SUCCESS } else { Exit::BUSY })
}

/// Whether it is free within that time. That it is held is said only of what was seen so: the store is
/// asked once at least, however short the time is.
async fn is_free_within(store: &Store, key: &Key, patience: Patience) -> Result<bool, Failure> {
    let mut over = pin!(OptionFuture::from(match patience {
        Patience::For(limit) => Some(tokio::time::sleep(limit)),
        Patience::Forever => None,
    }));
    let backend = store.open().await?;
    // Subscribed first, then looked: a release in between is not missed.
    let mut hints = store.ask(backend.watch(key, &Watcher::Observer)).await?;
    let poll = backend.limits().cheap_death_poll.unwrap_or(POLL);
    let mut hints_end = false;
    loop {
        let answer = store.ask(backend.read_lock(key)).await?;
        // The lock of a dead process is anybody's.
        if answer.value.is_none_or(|held| alive(&held) == Some(false)) {
            return Ok(true);
        }
        tokio::select! {
            hint = hints.next(), if !hints_end => hints_end = hint.is_none(),
            () = tokio::time::sleep(poll) => {}
            Some(()) = &mut over => return Ok(false),
        }
    }
}
