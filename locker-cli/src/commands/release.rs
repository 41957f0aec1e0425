//! `release`: an operator takes a lock from its owner (attack 15).

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, printable};
use crate::store::Store;
use locker_core::backend::{Force, Released};
use locker_core::{Key, OwnerHash};
use serde_json::json;

/// An owner hash, which must be one of this key.
pub(super) fn parse_owner(text: &str, key: &Key) -> Result<OwnerHash, Failure> {
    let hint = "`locker show KEY` prints the owner hash of the holder";
    let owner: OwnerHash = text
        .parse()
        .map_err(|error| Failure::usage(format!("{error}")).hint(hint))?;
    if owner.key() != key {
        let what = format!(
            "that owner hash is of the lock {:?}, not of {:?}",
            owner.key().as_str(),
            key.as_str()
        );
        return Err(Failure::usage(what).hint(hint));
    }
    Ok(owner)
}

/// `locker release KEY --owner HASH [--now]`.
pub(super) async fn release(
    store: &Store,
    owner: &OwnerHash,
    now: bool,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let backend = store.open().await?;
    let force = if now { Force::Now } else { Force::Mark };
    let answer = store.release(backend.force_release(owner, force)).await?;
    let key = printable(owner.key().as_str());
    let (word, text, exit) = match (&answer.value, now) {
        (Released::Done, true) => (
            "released",
            format!("{key} is free; its former owner may still be running until its next check"),
            Exit::SUCCESS,
        ),
        (Released::Done, false) => (
            "asked_back",
            format!("{key} is asked back; it is free when its owner has stopped, or is dead"),
            Exit::SUCCESS,
        ),
        (Released::Absent, _) => (
            "free",
            format!("{key} was free already; nothing was changed"),
            Exit::NO,
        ),
        (Released::Held(other), _) => (
            "held",
            format!(
                "{key} is held by {}; nothing was changed",
                printable(other.as_str())
            ),
            Exit::NO,
        ),
    };
    if out.is_json() {
        let holder = match &answer.value {
            Released::Held(other) => Some(other.as_str()),
            Released::Done | Released::Absent => None,
        };
        let key = owner.key().as_str();
        out.value(&json!({ "key": key, "outcome": word, "owner": holder }))?;
    } else {
        out.line(&text)?;
    }
    Ok(exit)
}
