//! Total decoding (S11): whatever is found in a row, the answer is a record or a typed error for
//! that key, and nothing is done to it.

use crate::error::{self, Stage};
use locker_core::backend::{Claimed, Held, Liveness, Observed, Released, Standing};
use locker_core::record::RawLock;
use locker_core::{
    BackendError, Key, LockData, OwnerHash, ProcessData, ProcessHash, StoreTime, Timestamp, Token,
};
use sqlx::Row;
use sqlx::postgres::PgRow;
use std::time::Duration;

/// One row of the type `answer`.
#[derive(Debug)]
pub(crate) struct Answered {
    row: PgRow,
    judged_at: i64,
}

impl Answered {
    pub(crate) fn new(row: PgRow) -> Result<Self, BackendError> {
        let judged_at = row.try_get("judged_at").map_err(foreign)?;
        Ok(Self { row, judged_at })
    }

    /// The time by which it was judged.
    pub(crate) fn store_time(&self) -> StoreTime {
        store_time(self.judged_at)
    }

    /// Which member of its batch it answers, from 0.
    pub(crate) fn member(&self) -> Result<usize, BackendError> {
        let member: i32 = self.row.try_get("member").map_err(foreign)?;
        usize::try_from(member - 1).map_err(|_| unexpected("member"))
    }

    pub(crate) fn verdict(&self) -> Result<&str, BackendError> {
        self.row.try_get("verdict").map_err(foreign)
    }

    /// The name of the row in the order of listings.
    pub(crate) fn name(&self) -> Result<&str, BackendError> {
        self.row.try_get("key").map_err(foreign)
    }

    /// The answer to a claim; `None` when the row was being changed and nothing was done.
    pub(crate) fn claimed(&self, key: &Key) -> Result<Option<Claimed>, BackendError> {
        Ok(Some(match self.verdict()? {
            "granted" => Claimed::Granted(self.token(key)?),
            "held" => Claimed::Held(self.held(key.as_str())?),
            "absent" => Claimed::Absent,
            "too_late" => Claimed::TooLate,
            "owner_dead" => Claimed::OwnerDead,
            "again" => return Ok(None),
            _ => return Err(unexpected("verdict")),
        }))
    }

    /// How a lock stands.
    pub(crate) fn standing(&self, owner: &OwnerHash) -> Result<Standing, BackendError> {
        Ok(match self.verdict()? {
            "mine" => Standing::Mine,
            "marked" => Standing::Marked,
            "absent" => Standing::Absent,
            "held" => Standing::Held(self.data(owner.key().as_str())?.owner),
            "corrupt" => return Err(missing(owner.key().as_str(), "end")),
            "again" => return Err(error::busy()),
            _ => return Err(unexpected("verdict")),
        })
    }

    /// The answer to a release; `None` when the row was being changed and nothing was done.
    pub(crate) fn released(&self, owner: &OwnerHash) -> Result<Option<Released>, BackendError> {
        Ok(Some(match self.verdict()? {
            "done" | "wanted" => Released::Done,
            "absent" => Released::Absent,
            "held" => Released::Held(self.data(owner.key().as_str())?.owner),
            "corrupt" => return Err(missing(owner.key().as_str(), "end")),
            "again" => return Ok(None),
            _ => return Err(unexpected("verdict")),
        }))
    }

    /// The lock that is held, if it is.
    pub(crate) fn read(&self, key: &str) -> Result<Option<Held>, BackendError> {
        match self.verdict()? {
            "absent" => Ok(None),
            "held" => self.held(key).map(Some),
            _ => Err(unexpected("verdict")),
        }
    }

    fn held(&self, key: &str) -> Result<Held, BackendError> {
        let data = self.data(key)?;
        let expires = self
            .number("expires", key)?
            .ok_or_else(|| missing(key, "end"))?;
        let alive_at = self.number("holder_alive_at", key)?;
        let process_end = self.number("holder_expires", key)?;
        let (holder, free_in) = match (alive_at, process_end) {
            (Some(alive_at), Some(end)) if end > self.judged_at => {
                // A living holder's lock is not free now, if only for a microsecond.
                let left = until(self.judged_at, expires.min(end)).max(Duration::from_micros(1));
                let process = process_data(data.process().clone(), alive_at)?;
                (Liveness::Alive(process), left)
            }
            _ => (Liveness::Dead, Duration::ZERO),
        };
        Ok(Held {
            observed: Observed::new(data.owner.as_str()),
            data,
            holder: Some(holder),
            free_in,
            marked: self
                .row
                .try_get::<Option<bool>, _>("marked")
                .map_err(foreign)?
                .unwrap_or(false),
        })
    }

    fn data(&self, key: &str) -> Result<LockData, BackendError> {
        let owner = self.text("owner")?.ok_or_else(|| missing(key, "owner"))?;
        let number = |field, what| -> Result<i64, BackendError> {
            self.number(field, key)?.ok_or_else(|| missing(key, what))
        };
        let format: Option<i32> = self.row.try_get("format").map_err(foreign)?;
        let data = LockData::decode(RawLock {
            key,
            format: format.ok_or_else(|| missing(key, "format"))?.into(),
            owner,
            token: number("token", "token")?,
            acquired_at: number("acquired_at", "time")?,
            extended_at: number("extended_at", "time")?,
        })
        .map_err(|cause| {
            error::corrupt(format!(
                "the record of the key {key:?} is not one this release reads"
            ))
            .with_source(cause)
        })?;
        if self.text("process")? != Some(data.process().as_str()) {
            return Err(error::corrupt(format!(
                "the record of the key {key:?} names two different processes"
            )));
        }
        Ok(data)
    }

    fn token(&self, key: &Key) -> Result<Token, BackendError> {
        let token = self.number("token", key.as_str())?;
        token
            .and_then(|token| u64::try_from(token).ok())
            .filter(|token| *token > 0)
            .map(Token::new)
            .ok_or_else(|| missing(key.as_str(), "token"))
    }

    fn text(&self, field: &str) -> Result<Option<&str>, BackendError> {
        self.row.try_get(field).map_err(foreign)
    }

    fn number(&self, field: &str, key: &str) -> Result<Option<i64>, BackendError> {
        self.row.try_get(field).map_err(|cause| {
            error::corrupt(format!("the record of the key {key:?} cannot be read"))
                .with_source(cause)
        })
    }
}

/// One row of the type `process_answer`.
#[derive(Debug)]
pub(crate) struct ProcessAnswered {
    row: PgRow,
    judged_at: i64,
}

impl ProcessAnswered {
    pub(crate) fn new(row: PgRow) -> Result<Self, BackendError> {
        let judged_at = row.try_get("judged_at").map_err(foreign)?;
        Ok(Self { row, judged_at })
    }

    pub(crate) fn store_time(&self) -> StoreTime {
        store_time(self.judged_at)
    }

    pub(crate) fn verdict(&self) -> Result<&str, BackendError> {
        self.row.try_get("verdict").map_err(foreign)
    }

    pub(crate) fn name(&self) -> Result<&str, BackendError> {
        self.row.try_get("process").map_err(foreign)
    }

    /// The living process that it is about, if it lives.
    pub(crate) fn living(&self) -> Result<Option<ProcessData>, BackendError> {
        match self.verdict()? {
            "dead" => Ok(None),
            "alive" => {
                let process: ProcessHash = self.name()?.parse().map_err(|cause| {
                    let cause: locker_core::InvalidIdentity = cause;
                    error::corrupt("the name of a process is malformed").with_source(cause)
                })?;
                let alive_at = self.row.try_get("alive_at").map_err(foreign)?;
                process_data(process, alive_at).map(Some)
            }
            _ => Err(unexpected("verdict")),
        }
    }
}

fn process_data(process: ProcessHash, alive_at: i64) -> Result<ProcessData, BackendError> {
    let alive_at = u64::try_from(alive_at).map_err(|cause| {
        error::corrupt(format!(
            "the record of the process {process} has a negative time"
        ))
        .with_source(cause)
    })?;
    Ok(ProcessData {
        process,
        alive_at: Timestamp::from_micros(alive_at),
    })
}

pub(crate) fn store_time(micros: i64) -> StoreTime {
    StoreTime::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn until(now: i64, end: i64) -> Duration {
    Duration::from_micros(u64::try_from(end.saturating_sub(now)).unwrap_or(0))
}

fn missing(key: &str, field: &str) -> BackendError {
    error::corrupt(format!("the record of the key {key:?} has no {field}"))
}

/// A column of another type: not what the functions of this release answer.
pub(crate) fn foreign(error: sqlx::Error) -> BackendError {
    error::from_sqlx(error, Stage::Sent)
}

/// An answer that the functions of this release do not give.
pub(crate) fn unexpected(what: &str) -> BackendError {
    foreign(sqlx::Error::Protocol(format!(
        "a {what} that no function of the locker answers"
    )))
}
