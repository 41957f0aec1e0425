//! Total decoding (S11): whatever is found in a row, the answer is a record or a typed error for
//! that key, and nothing is done to it.

use crate::error;
use crate::liveness::Liveness;
use crate::place::FileId;
use crate::session::Scope;
use locker_core::backend::{Held, Liveness as Standing, Observed};
use locker_core::record::RawLock;
use locker_core::{BackendError, LockData, ProcessData, ProcessHash, Timestamp, Token};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// The columns of a lock, in the order in which [`Lock::decode`] reads them.
pub(crate) const LOCK: &str =
    "l.token, l.format, l.owner, l.process, l.acquired_at, l.extended_at, l.expires, l.marked";
/// How many they are.
pub(crate) const LOCK_COLUMNS: usize = 8;

/// A key that was granted at least once.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) last_token: Token,
    pub(crate) record: Option<Record>,
}

/// A record that is there, expired or not.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) data: LockData,
    pub(crate) expires: i64,
    pub(crate) marked: bool,
}

impl Lock {
    /// Reads the columns from `first` on; `None` when an outer join found no row.
    pub(crate) fn decode(
        row: &SqliteRow,
        first: usize,
        key: &str,
    ) -> Result<Option<Self>, BackendError> {
        let unreadable = |cause: sqlx::Error| {
            error::corrupt(format!("the record of the key {key:?} cannot be read"))
                .with_source(cause)
        };
        let number = |index| {
            row.try_get::<Option<i64>, _>(first + index)
                .map_err(unreadable)
        };
        let text = |index| {
            row.try_get::<Option<&str>, _>(first + index)
                .map_err(unreadable)
        };
        let missing =
            |field| error::corrupt(format!("the record of the key {key:?} has no {field}"));
        let Some(token) = number(0)? else {
            return Ok(None);
        };
        let last_token = match u64::try_from(token) {
            Ok(token) if token > 0 => Token::new(token),
            _ => {
                return Err(error::corrupt(format!(
                    "the token of the key {key:?} is {token}, so the next one is unknown"
                )));
            }
        };
        let Some(owner) = text(2)? else {
            return Ok(Some(Self {
                last_token,
                record: None,
            }));
        };
        let data = LockData::decode(RawLock {
            key,
            format: number(1)?.ok_or_else(|| missing("format"))?,
            owner,
            token,
            acquired_at: number(4)?.ok_or_else(|| missing("time"))?,
            extended_at: number(5)?.ok_or_else(|| missing("time"))?,
        })
        .map_err(|cause| {
            error::corrupt(format!(
                "the record of the key {key:?} is not one this release reads"
            ))
            .with_source(cause)
        })?;
        if text(3)? != Some(data.process().as_str()) {
            return Err(error::corrupt(format!(
                "the record of the key {key:?} names two different processes"
            )));
        }
        Ok(Some(Self {
            last_token,
            record: Some(Record {
                data,
                expires: number(6)?.ok_or_else(|| missing("end"))?,
                marked: number(7)?.unwrap_or(0) != 0,
            }),
        }))
    }
}

/// The columns of a process of the alias that precedes them, as [`Process::decode`] reads them.
macro_rules! process_columns {
    ($alias:literal) => {
        concat!(
            $alias,
            ".alive_at, ",
            $alias,
            ".expires, ",
            $alias,
            ".device, ",
            $alias,
            ".inode, ",
            $alias,
            ".byte"
        )
    };
}
pub(crate) use process_columns;

/// How many they are.
pub(crate) const PROCESS_COLUMNS: usize = 5;

/// What is known of an incarnation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pub(crate) alive_at: i64,
    pub(crate) expires: i64,
    pub(crate) file: FileId,
    pub(crate) byte: i64,
}

impl Process {
    /// Reads the columns from `first` on; `None` when an outer join found no row.
    pub(crate) fn decode(row: &SqliteRow, first: usize) -> Result<Option<Self>, BackendError> {
        let number = |index| {
            row.try_get::<Option<i64>, _>(first + index)
                .map_err(|cause| {
                    error::corrupt("the record of a process cannot be read").with_source(cause)
                })
        };
        let columns = (number(0)?, number(1)?, number(2)?, number(3)?, number(4)?);
        let (Some(alive_at), Some(expires), Some(device), Some(inode), Some(byte)) = columns else {
            return Ok(None);
        };
        Ok(Some(Self {
            alive_at,
            expires,
            file: FileId::from_columns(device, inode),
            byte,
        }))
    }

    /// Whether it lives: its record is unexpired, and the kernel does not know better.
    ///
    /// Both ends are one-way: an expired record is never renewed, and a byte is locked before its
    /// record is committed and then freed only by the end of the descriptor or after retirement.
    pub(crate) fn lives(&self, scope: Scope<'_>) -> bool {
        self.expires > scope.now.nanos() && !self.is_surely_dead(scope.liveness)
    }

    fn is_surely_dead(&self, liveness: &Liveness) -> bool {
        liveness.surely_dead(self.file, self.byte)
    }

    /// As the contract answers it.
    pub(crate) fn data(&self, process: &ProcessHash) -> Result<ProcessData, BackendError> {
        let alive_at = u64::try_from(self.alive_at).map_err(|cause| {
            error::corrupt(format!(
                "the record of the process {process} has a negative time"
            ))
            .with_source(cause)
        })?;
        Ok(ProcessData {
            process: process.clone(),
            alive_at: Timestamp::from_micros(alive_at),
        })
    }
}

impl Record {
    /// The record, unless it has expired.
    pub(crate) fn unexpired(&self, scope: Scope<'_>) -> Option<&Self> {
        (self.expires > scope.now.nanos()).then_some(self)
    }

    /// As the contract answers it, with what is known of the holder's process.
    pub(crate) fn held(
        &self,
        scope: Scope<'_>,
        holder: Option<Process>,
    ) -> Result<Held, BackendError> {
        let living = holder.filter(|process| process.lives(scope));
        let holder = match living {
            Some(process) => Standing::Alive(process.data(self.data.process())?),
            None => Standing::Dead,
        };
        // A dead holder's lock can be taken now.
        let process_left = scope.now.until(living.map_or(0, |process| process.expires));
        Ok(Held {
            data: self.data.clone(),
            observed: Observed::new(self.data.owner.as_str()),
            holder: Some(holder),
            free_in: scope.now.until(self.expires).min(process_left),
            marked: self.marked,
        })
    }
}
