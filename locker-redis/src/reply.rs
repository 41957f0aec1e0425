//! Total decoding (S11): whatever comes back, the answer is a value or a typed error, for the key
//! that it is about.

use crate::error::{self, Stage};
use locker_core::backend::{Held, Liveness, Observed, Released, Standing};
use locker_core::record::RawLock;
use locker_core::{
    BackendError, Key, LockData, OwnerHash, ProcessData, ProcessHash, StoreTime, Timestamp,
};
use redis::Value;
use std::time::Duration;

/// Takes the server's time off an answer of a script: an array, or a text of words.
pub(crate) fn split(value: Value, what: &str) -> Result<(StoreTime, Vec<Value>), BackendError> {
    let (seconds, micros, values) = match value {
        Value::Array(values) => {
            let mut values = values.into_iter();
            let mut next = || values.next().as_ref().and_then(number);
            (next(), next(), values.collect())
        }
        words => {
            let mut words = text(&words).unwrap_or_default().split(' ');
            let mut next = || words.next()?.parse().ok();
            let word = |word: &str| Value::SimpleString(word.to_owned());
            (next(), next(), words.map(word).collect())
        }
    };
    let (Some(seconds), Some(micros)) = (seconds, micros) else {
        return Err(error::unexpected(what));
    };
    let time = seconds.saturating_mul(1_000_000).saturating_add(micros);
    Ok((StoreTime::from_micros(time), values))
}

/// The answer to one member, or the error that the script has caught for it.
pub(crate) fn member(
    value: Value,
    lock: &str,
    operation: &str,
    stage: Stage,
) -> Result<Vec<Value>, BackendError> {
    let fields = match value {
        Value::Array(fields) => fields,
        word => vec![word],
    };
    match word(&fields) {
        Some("error") => {
            let caught = fields.get(1).and_then(text).unwrap_or_default();
            Err(error::from_member(caught, lock, stage))
        }
        Some(_) => Ok(fields),
        None => Err(error::unexpected(operation)),
    }
}

/// What an answer begins with.
pub(crate) fn word(fields: &[Value]) -> Option<&str> {
    fields.first().and_then(text)
}

pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

fn unreadable(key: &Key, why: &str) -> BackendError {
    error::corrupt(format!("the record of the key {key:?} {why}"))
}

/// How a lock stands for its asker.
pub(crate) fn standing(key: &Key, fields: &[Value]) -> Result<Standing, BackendError> {
    match word(fields) {
        Some("mine") => Ok(Standing::Mine),
        Some("marked") => Ok(Standing::Marked),
        Some("absent") => Ok(Standing::Absent),
        Some("other") => other(key, fields).map(Standing::Held),
        _ => Err(error::unexpected("a question about a lock")),
    }
}

/// What became of a release.
pub(crate) fn released(key: &Key, fields: &[Value]) -> Result<Released, BackendError> {
    Ok(match standing(key, fields)? {
        Standing::Mine | Standing::Marked => Released::Done,
        Standing::Absent => Released::Absent,
        Standing::Held(owner) => Released::Held(owner),
    })
}

fn other(key: &Key, fields: &[Value]) -> Result<OwnerHash, BackendError> {
    let owner = fields
        .get(1)
        .and_then(text)
        .and_then(|owner| owner.parse().ok());
    let owner: OwnerHash = owner.ok_or_else(|| unreadable(key, "has a malformed owner"))?;
    if owner.key() != key {
        return Err(unreadable(key, "names an owner of another key"));
    }
    Ok(owner)
}

/// A lock that somebody holds: the fields as the script found them, and what the holder's process
/// has written, where the script could see it.
pub(crate) fn held(now: StoreTime, key: &Key, fields: &[Value]) -> Result<Held, BackendError> {
    let field = |index: usize| fields.get(index).and_then(text);
    let number = |index: usize, name: &str| {
        let number = field(index).and_then(|text| text.parse::<i64>().ok());
        number.ok_or_else(|| unreadable(key, &format!("has no number as its {name}")))
    };
    let owner = field(2).ok_or_else(|| unreadable(key, "has no owner"))?;
    let token = number(3, "token")?;
    let data = LockData::decode(RawLock {
        key: key.as_str(),
        format: number(1, "format")?,
        owner,
        token,
        acquired_at: number(4, "time of acquisition")?,
        extended_at: number(5, "time of extension")?,
    })
    .map_err(|cause| unreadable(key, "is not one this release reads").with_source(cause))?;
    let expires =
        u64::try_from(number(6, "end")?).map_err(|_| unreadable(key, "has a negative end"))?;
    let left = until(now, expires);
    let (holder, free_in) = match field(8) {
        // Not to be seen from here.
        None => (None, left),
        Some(written) => {
            let (holder, process_left) = holder(now, data.process(), written)?;
            (Some(holder), left.min(process_left))
        }
    };
    Ok(Held {
        observed: Observed::new(format!("{token} {owner}")),
        holder,
        free_in,
        marked: field(7).is_some(),
        data,
    })
}

/// The owner that a version of a record names.
pub(crate) fn observed_owner(observed: &Observed) -> Option<OwnerHash> {
    let (_, owner) = observed.as_str().split_once(' ')?;
    owner.parse().ok()
}

/// The holder's process, from what it has written; nothing when it is dead.
fn holder(
    now: StoreTime,
    process: &ProcessHash,
    written: &str,
) -> Result<(Liveness, Duration), BackendError> {
    if written.is_empty() {
        return Ok((Liveness::Dead, Duration::ZERO));
    }
    let times = written.split_once(' ').and_then(|(expires, alive_at)| {
        Some((expires.parse::<u64>().ok()?, alive_at.parse::<u64>().ok()?))
    });
    let (expires, alive_at) = times.ok_or_else(|| unreadable_process(process))?;
    Ok((alive(process, alive_at), until(now, expires)))
}

/// How long something still lives that does: never nothing, whatever rounding says.
fn until(now: StoreTime, expires: u64) -> Duration {
    Duration::from_micros(expires.saturating_sub(now.as_micros()).max(1))
}

fn alive(process: &ProcessHash, alive_at: u64) -> Liveness {
    Liveness::Alive(ProcessData {
        process: process.clone(),
        alive_at: Timestamp::from_micros(alive_at),
    })
}

pub(crate) fn unreadable_process(process: &ProcessHash) -> BackendError {
    error::corrupt(format!(
        "the record of the process {process} cannot be read"
    ))
}

/// Whether a process has lived, and does not any more. One that was never born may be yet.
pub(crate) fn has_lived(fields: &[Value]) -> bool {
    word(fields) == Some("gone") && fields.len() > 1
}

/// What the script of processes answers to a question: liveness, and how long it lasts.
pub(crate) fn liveness(
    now: StoreTime,
    process: &ProcessHash,
    fields: &[Value],
) -> Result<(Liveness, Duration), BackendError> {
    match word(fields) {
        Some("gone") => Ok((Liveness::Dead, Duration::ZERO)),
        Some("alive") => {
            let (expires, alive_at) = (
                fields.get(1).and_then(number),
                fields.get(2).and_then(number),
            );
            let times = expires.zip(alive_at);
            let (expires, alive_at) = times.ok_or_else(|| unreadable_process(process))?;
            Ok((alive(process, alive_at), until(now, expires)))
        }
        Some("corrupt") => Err(unreadable_process(process)),
        _ => Err(error::unexpected("a question about a process")),
    }
}
