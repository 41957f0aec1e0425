//! Listings, in pages, for people and tools. A page is one reading statement over a bounded number
//! of rows, so it neither blocks a writer nor keeps this connection from its next step for long.
//!
//! Keys are compared bytewise, as the memory store does. A cursor is the hexadecimal form of the
//! last row's name, because a name that is damaged need not be a text.

use crate::error;
use crate::row::{LOCK, LOCK_COLUMNS, Lock, PROCESS_COLUMNS, Process, process_columns};
use crate::session::{Scope, Step, failed};
use locker_core::backend::{Cursor, Held, Listing, Page};
use locker_core::{BackendError, Key, ProcessData, ProcessHash};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqlSafeStr, SqlStr};
use std::fmt::Write;
use std::sync::LazyLock;

/// How many rows one page looks at; free keys are among them.
const SCAN: u32 = 512;

/// A BLOB is greater than every TEXT, so without an upper bound the range is open.
static LOCKS: LazyLock<SqlStr> = LazyLock::new(|| {
    let holder = process_columns!("h");
    AssertSqlSafe(format!(
        "SELECT {LOCK}, {holder}, l.key FROM locks l \
         LEFT JOIN processes h ON h.namespace = l.namespace AND h.process = l.process \
         WHERE l.namespace = ?1 AND l.key >= CAST(?2 AS TEXT) AND l.key > CAST(?3 AS TEXT) \
           AND l.key < CASE WHEN ?4 IS NULL THEN x'' ELSE CAST(?4 AS TEXT) END \
         ORDER BY l.key LIMIT ?5"
    ))
    .into_sql_str()
});

impl Step<'_> {
    pub(crate) async fn list_locks(
        &mut self,
        prefix: &str,
        page: &Page,
    ) -> Result<Listing<Result<Held, BackendError>>, BackendError> {
        let rows = sqlx::query(LOCKS.clone())
            .bind(self.scope.namespace)
            .bind(prefix.as_bytes())
            .bind(after(page)?)
            .bind(successor(prefix))
            .bind(SCAN)
            .fetch_all(&mut *self.connection)
            .await
            .map_err(failed)?;
        let scope = self.scope;
        pages(page, &rows, LOCK_COLUMNS + PROCESS_COLUMNS, |row, name| {
            held(scope, row, name).transpose()
        })
    }

    pub(crate) async fn list_processes(
        &mut self,
        page: &Page,
    ) -> Result<Listing<Result<ProcessData, BackendError>>, BackendError> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            process_columns!("p"),
            ", p.process FROM processes p \
             WHERE p.namespace = ?1 AND p.process > CAST(?2 AS TEXT) ORDER BY p.process LIMIT ?3"
        ))
        .bind(self.scope.namespace)
        .bind(after(page)?)
        .bind(SCAN)
        .fetch_all(&mut *self.connection)
        .await
        .map_err(failed)?;
        let scope = self.scope;
        pages(page, &rows, PROCESS_COLUMNS, |row, name| {
            living(scope, row, name).transpose()
        })
    }
}

fn held(scope: Scope<'_>, row: &SqliteRow, name: &[u8]) -> Result<Option<Held>, BackendError> {
    let key = text(name).and_then(|text| {
        Key::new(text).map_err(|cause| error::corrupt("a key is malformed").with_source(cause))
    })?;
    let Some(Lock {
        record: Some(record),
        ..
    }) = Lock::decode(row, 0, key.as_str())?
    else {
        return Ok(None);
    };
    let holder = Process::decode(row, LOCK_COLUMNS)?;
    let record = record.unexpired(scope);
    record.map(|record| record.held(scope, holder)).transpose()
}

fn living(
    scope: Scope<'_>,
    row: &SqliteRow,
    name: &[u8],
) -> Result<Option<ProcessData>, BackendError> {
    let Some(found) = Process::decode(row, 0)? else {
        return Ok(None);
    };
    if !found.lives(scope) {
        return Ok(None);
    }
    let process: ProcessHash =
        text(name)?
            .parse()
            .map_err(|cause: locker_core::InvalidIdentity| {
                error::corrupt("the name of a process is malformed").with_source(cause)
            })?;
    found.data(&process).map(Some)
}

fn text(name: &[u8]) -> Result<&str, BackendError> {
    std::str::from_utf8(name)
        .map_err(|cause| error::corrupt("a name is not a text").with_source(cause))
}

/// Makes a page of the rows that are items.
fn pages<T>(
    page: &Page,
    rows: &[SqliteRow],
    name_column: usize,
    item: impl Fn(&SqliteRow, &[u8]) -> Option<Result<T, BackendError>>,
) -> Result<Listing<Result<T, BackendError>>, BackendError> {
    let mut items = Vec::new();
    let mut last = None;
    for row in rows {
        let name: &[u8] = row.try_get(name_column).map_err(failed)?;
        if let Some(item) = item(row, name) {
            if items.len() >= page.limit.max(1) as usize {
                // This one begins the next page.
                return Ok(Listing { items, next: last });
            }
            items.push(item);
        }
        last = Some(cursor(name));
    }
    let more = rows.len() >= SCAN as usize;
    Ok(Listing {
        items,
        next: last.filter(|_| more),
    })
}

fn cursor(name: &[u8]) -> Cursor {
    let mut place = String::with_capacity(2 * name.len());
    for byte in name {
        // Writing to a string cannot fail.
        let _ = write!(place, "{byte:02x}");
    }
    Cursor::new(place)
}

/// The name after which a page begins; names have at least one byte, so the first page begins after
/// none.
fn after(page: &Page) -> Result<Vec<u8>, BackendError> {
    let Some(cursor) = &page.after else {
        return Ok(Vec::new());
    };
    let digits = cursor.as_str().as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    bytes
        .filter(|_| digits.len().is_multiple_of(2))
        .ok_or_else(|| {
            BackendError::new(
                locker_core::ErrorKind::Rejected,
                locker_core::Effect::NotApplied,
                "the place in the listing is not one that this store gave out",
            )
        })
}

/// The least text above all those that begin with the prefix; `None` when there is no bound. No
/// byte of UTF-8 is 0xFF, so the last one can be counted up.
fn successor(prefix: &str) -> Option<Vec<u8>> {
    let mut bytes = prefix.as_bytes().to_vec();
    *bytes.last_mut()? += 1;
    Some(bytes)
}
