//! The values: JSON, which an operator can read with `etcdctl get`, and its total decoding.
//!
//! A lock's value begins with its format and its owner, in this order and in this spelling. So a
//! transaction can ask whether a record is of this owner without knowing the rest of it: its value
//! lies between two texts. etcd compares values bytewise.

use crate::error;
use crate::names::{LockKey, Names};
use etcd_client::{Compare, CompareOp, KeyValue};
use locker_core::backend::{Held, Liveness, Observed};
use locker_core::record::RawLock;
use locker_core::{BackendError, Key, LockData, OwnerHash, ProcessData, ProcessHash, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// A lock as it is written. The order of the fields is that of the text.
#[derive(Debug, Serialize, Deserialize)]
struct LockValue<'a> {
    format: i64,
    #[serde(borrow)]
    owner: std::borrow::Cow<'a, str>,
    /// The token is this and the revision of the grant.
    base: i64,
    /// By the owner's wall clock, in microseconds since the Unix epoch; for people.
    acquired_at: i64,
    /// How long the owner's process lives after a report that is its last, in milliseconds.
    process_ttl: u64,
}

/// A process as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct ProcessValue<'a> {
    format: i64,
    #[serde(borrow)]
    process: std::borrow::Cow<'a, str>,
    /// By its own wall clock, in microseconds since the Unix epoch; for people.
    born_at: i64,
    /// What its lease was granted for, in milliseconds.
    ttl: u64,
}

/// A lock as it was found.
#[derive(Debug, Clone)]
pub(crate) struct Lock {
    pub(crate) data: LockData,
    /// The revision that wrote it: it tells this grant from every other of this key.
    pub(crate) revision: i64,
    pub(crate) marked: bool,
    process_ttl: Duration,
}

/// A living process as it was found.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) data: ProcessData,
    pub(crate) ttl: Duration,
    /// The revision that wrote it last: what every claim of the process compares.
    pub(crate) generation: i64,
}

/// The value of a lock that `owner` is about to acquire.
pub(crate) fn lock_value(owner: &OwnerHash, base: i64, process_ttl: Duration) -> Vec<u8> {
    let value = LockValue {
        format: i64::from(locker_core::record::RECORD_FORMAT),
        owner: owner.as_str().into(),
        base,
        acquired_at: wall_micros(),
        process_ttl: millis(process_ttl),
    };
    to_json(&value)
}

/// The value of a process that is being born.
pub(crate) fn process_value(process: &ProcessHash, ttl: Duration) -> Vec<u8> {
    to_json(&ProcessValue {
        format: i64::from(locker_core::record::RECORD_FORMAT),
        process: process.as_str().into(),
        born_at: wall_micros(),
        ttl: millis(ttl),
    })
}

/// Whether the record under `name` is of this owner: two comparisons, which hold together.
pub(crate) fn is_of(owner: &OwnerHash, name: &[u8]) -> [Compare; 2] {
    // The owner's text, with its closing quote and the comma behind it.
    let owner = serde_json::to_string(owner.as_str()).unwrap_or_default();
    let format = locker_core::record::RECORD_FORMAT;
    let from = format!("{{\"format\":{format},\"owner\":{owner},").into_bytes();
    let mut to = from.clone();
    if let Some(comma) = to.last_mut() {
        *comma += 1;
    }
    [
        Compare::value(name, CompareOp::Greater, from),
        Compare::value(name, CompareOp::Less, to),
    ]
}

/// What was found of one lock: its record, if there is one, and whether it is marked.
///
/// # Errors
///
/// `Corrupt`, when no locker of this release wrote what is there.
pub(crate) fn decode_lock(
    names: &Names,
    key: &Key,
    found: &[KeyValue],
) -> Result<Option<Lock>, BackendError> {
    let (mut owner, mut mark) = (None, None);
    for kv in found {
        match names.parse_lock(kv.key()) {
            Some(LockKey::Owner(_)) => owner = Some(kv),
            Some(LockKey::Mark(_)) => mark = Some(kv),
            None => {}
        }
    }
    let Some(owner) = owner else {
        return Ok(None);
    };
    lock_of(key, owner, mark.map(KeyValue::value)).map(Some)
}

/// One lock from its record and the text of its mark.
pub(crate) fn lock_of(
    key: &Key,
    found: &KeyValue,
    mark: Option<&[u8]>,
) -> Result<Lock, BackendError> {
    let unreadable = || error::corrupt(format!("the record of the lock {:?}", key.as_str()));
    let value: LockValue<'_> =
        serde_json::from_slice(found.value()).map_err(|cause| unreadable().with_source(cause))?;
    let token = value.base.checked_add(found.mod_revision());
    let data = LockData::decode(RawLock {
        key: key.as_str(),
        format: value.format,
        owner: &value.owner,
        token: if value.base < 0 {
            value.base
        } else {
            token.unwrap_or(-1)
        },
        acquired_at: value.acquired_at,
        // An extension is the keep-alive of the process: it writes nothing.
        extended_at: value.acquired_at,
    })
    .map_err(|cause| unreadable().with_source(cause))?;
    Ok(Lock {
        // A mark is about one grant.
        marked: mark.is_some_and(|mark| mark == data.owner.as_str().as_bytes()),
        data,
        revision: found.mod_revision(),
        process_ttl: Duration::from_millis(value.process_ttl),
    })
}

/// What was found of one process.
///
/// # Errors
///
/// `Corrupt`, when no locker of this release wrote what is there.
pub(crate) fn decode_process(found: &[KeyValue]) -> Result<Option<Process>, BackendError> {
    found.first().map(process_of).transpose()
}

/// One process.
pub(crate) fn process_of(found: &KeyValue) -> Result<Process, BackendError> {
    let unreadable = || error::corrupt("the record of a process");
    let value: ProcessValue<'_> =
        serde_json::from_slice(found.value()).map_err(|cause| unreadable().with_source(cause))?;
    if value.format != i64::from(locker_core::record::RECORD_FORMAT) {
        return Err(unreadable());
    }
    let process: ProcessHash = value
        .process
        .parse()
        .map_err(|cause: locker_core::InvalidIdentity| unreadable().with_source(cause))?;
    let born_at = u64::try_from(value.born_at).map_err(|cause| unreadable().with_source(cause))?;
    Ok(Process {
        data: ProcessData {
            process,
            // A renewal is the keep-alive of a lease: it writes nothing.
            alive_at: Timestamp::from_micros(born_at),
        },
        ttl: Duration::from_millis(value.ttl),
        generation: found.mod_revision(),
    })
}

impl Lock {
    /// The version of the record: the revision that wrote it, and its owner, by which a take-over
    /// knows whose process it must find dead.
    pub(crate) fn observed(&self) -> Observed {
        Observed::new(format!("{} {}", self.revision, self.data.owner))
    }

    /// The answer to who is refused. The record hangs on its process's lease, so the two go
    /// together, and the longest that the process can live on is all that is known of its end.
    pub(crate) fn held(&self, holder: Option<Liveness>) -> Held {
        Held {
            data: self.data.clone(),
            observed: self.observed(),
            free_in: match holder {
                Some(Liveness::Dead) => Duration::ZERO,
                _ => self.process_ttl.max(Duration::from_millis(1)),
            },
            holder,
            marked: self.marked,
        }
    }
}

/// Reads a version that [`Lock::observed`] wrote; `None` for every other text.
pub(crate) fn parse_observed(observed: &Observed) -> Option<(i64, OwnerHash)> {
    let (revision, owner) = observed.as_str().split_once(' ')?;
    let revision = revision.parse().ok().filter(|revision| *revision > 0)?;
    Some((revision, owner.parse().ok()?))
}

/// This machine's wall clock. etcd has none to show; it dates records for people, and raises the
/// base of the tokens.
pub(crate) fn wall_micros() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // A struct of numbers and texts always serializes.
    serde_json::to_vec(value).unwrap_or_default()
}
