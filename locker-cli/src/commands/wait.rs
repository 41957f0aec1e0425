//! `wait`: until a lock is free, without taking it and without delaying those who want it.

use crate::args::Patience;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, alive, printable};
use crate::store::Store;
use futures_util::StreamExt;
use locker_core::Key;
use locker_core::backend::Watcher;
use serde_json::json;
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
    let look = until_free(store, key);
    let free = match patience {
        Patience::Forever => look.await.map(|()| true)?,
        Patience::For(limit) => match tokio::time::timeout(limit, look).await {
            Ok(looked) => looked.map(|()| true)?,
            Err(_) => false,
        },
    };
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

async fn until_free(store: &Store, key: &Key) -> Result<(), Failure> {
    let backend = store.open().await?;
    // Subscribed first, then looked: a release in between is not missed.
    let mut hints = store.ask(backend.watch(key, &Watcher::Observer)).await?;
    let poll = backend.limits().cheap_death_poll.unwrap_or(POLL);
    let mut hints_end = false;
    loop {
        let answer = store.ask(backend.read_lock(key)).await?;
        // The lock of a dead process is anybody's.
        if answer.value.is_none_or(|held| alive(&held) == Some(false)) {
            return Ok(());
        }
        tokio::select! {
            hint = hints.next(), if !hints_end => hints_end = hint.is_none(),
            () = tokio::time::sleep(poll) => {}
        }
    }
}
