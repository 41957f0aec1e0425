//! Listings, in pages, for people and tools: one range read a page, of a bounded number of keys.
//! A cursor is the hexadecimal form of the last key that was looked at.

use crate::error;
use crate::names::{LockKey, Range};
use crate::record::{lock_of, process_of};
use crate::session::Session;
use etcd_client::{GetOptions, KeyValue};
use locker_core::backend::{Cursor, Held, Listing, Liveness, Page};
use locker_core::{BackendError, ProcessData};
use std::fmt::Write;

/// How many keys one page looks at, at most.
const SCAN: u32 = 512;

/// What one range read found, and whether there is more behind it.
struct Scan {
    found: Vec<KeyValue>,
    more: bool,
}

impl Session {
    pub(crate) async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Result<Listing<Result<Held, BackendError>>, BackendError> {
        let limit = page.limit.clamp(1, SCAN / 2);
        // A mark lies before its record. One more key than two for each, so that a record whose mark
        // was read comes with it.
        let scan = self
            .scan(self.names.locks(prefix), page, 2 * limit + 1)
            .await?;
        let mut items = Vec::new();
        let mut mark: Option<&KeyValue> = None;
        let mut place: Option<&[u8]> = None;
        let mut rest = scan.found.iter();
        for kv in rest.by_ref() {
            match self.names.parse_lock(kv.key()) {
                Some(LockKey::Mark(_)) => {
                    mark = Some(kv);
                    continue;
                }
                Some(LockKey::Owner(key)) => {
                    let beside = mark.take().filter(|mark| {
                        self.names.parse_lock(mark.key()) == Some(LockKey::Mark(key.clone()))
                    });
                    items.push(
                        lock_of(&key, kv, beside.map(KeyValue::value))
                            .map(|lock| lock.held(Some(Liveness::Unknown))),
                    );
                }
                None => items.push(Err(error::corrupt(format!(
                    "the key {:?}",
                    String::from_utf8_lossy(kv.key())
                )))),
            }
            place = Some(kv.key());
            if items.len() >= limit as usize {
                break;
            }
        }
        // A mark alone, at the end of a full page, is read again with its record; unless nothing else
        // was read, when it belongs to nobody.
        let place = place.or_else(|| mark.filter(|_| scan.more).map(KeyValue::key));
        let more = scan.more || rest.next().is_some();
        Ok(Listing {
            items,
            next: place.filter(|_| more).map(cursor),
        })
    }

    pub(crate) async fn list_processes(
        &self,
        page: &Page,
    ) -> Result<Listing<Result<ProcessData, BackendError>>, BackendError> {
        let limit = page.limit.clamp(1, SCAN);
        let scan = self.scan(self.names.processes(), page, limit).await?;
        let items = scan
            .found
            .iter()
            .map(|kv| process_of(kv).map(|process| process.data))
            .collect();
        let last = scan.found.last().filter(|_| scan.more);
        Ok(Listing {
            items,
            next: last.map(|kv| cursor(kv.key())),
        })
    }

    async fn scan(&self, range: Range, page: &Page, limit: u32) -> Result<Scan, BackendError> {
        let (mut from, to) = range;
        if let Some(after) = &page.after {
            let mut after = place_of(after)?;
            // The smallest key behind it.
            after.push(0);
            from = from.max(after);
        }
        if from >= to {
            return Ok(Scan {
                found: Vec::new(),
                more: false,
            });
        }
        let options = GetOptions::new()
            .with_range(to)
            .with_limit(i64::from(limit));
        let mut answer = self.get(from, Some(options)).await?;
        Ok(Scan {
            more: answer.more(),
            found: answer.take_kvs(),
        })
    }
}

fn cursor(place: &[u8]) -> Cursor {
    let mut text = String::with_capacity(place.len() * 2);
    for byte in place {
        // Writing to a String never fails.
        let _ = write!(text, "{byte:02x}");
    }
    Cursor::new(text)
}

fn place_of(cursor: &Cursor) -> Result<Vec<u8>, BackendError> {
    let digits = cursor.as_str().as_bytes();
    let pair = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok()
    };
    let place: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
    place
        .filter(|_| digits.len().is_multiple_of(2))
        .ok_or_else(|| error::config("the place where a listing begins is none of this store"))
}
