//! `locker migrate`: a store that is ready to be used, and what makes it so.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::store::Store;
use serde_json::json;

/// What would be done in an empty store.
pub(super) fn print(store: &Store, out: &mut Output) -> Result<Exit, Failure> {
    let text = store.migrations()?;
    if out.is_json() {
        out.value(&json!({ "store": store.shown(), "migrations": text }))?;
    } else {
        let nothing =
            "-- this store is prepared when it is opened: nothing has to be done before\n";
        out.line(text.as_deref().unwrap_or(nothing).trim_end())?;
    }
    Ok(Exit::SUCCESS)
}

/// Prepares the store, unless that is only asked about, and opens it.
pub(super) async fn migrate(store: &Store, ask: bool, out: &mut Output) -> Result<Exit, Failure> {
    if ask {
        store.exists()?;
    } else {
        store.migrate().await?;
    }
    store.open().await?;
    if out.is_json() {
        out.value(&json!({ "store": store.shown(), "ready": true }))?;
    } else {
        out.line(&format!("{} is ready", store.shown()))?;
    }
    Ok(Exit::SUCCESS)
}
