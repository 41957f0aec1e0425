//! The steps on locks: claims, extension, release, reading. Each does exactly what the memory store
//! does in its critical section.

use crate::error;
use crate::row::{LOCK, LOCK_COLUMNS, Lock, PROCESS_COLUMNS, Process, Record, process_columns};
use crate::session::{Step, failed};
use locker_core::backend::{Claim, Claimed, Held, Liveness, Observed, Released, Standing};
use locker_core::{BackendError, Key, LockData, OwnerHash, Token};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

/// How many locks one `extend` or `check` may name; more are done in chunks of this.
pub(crate) const BATCH: usize = 64;

/// Everything that decides about one key, in one row: the lock, its holder's process, the
/// claimant's process, and whether anybody waits.
static KEY: LazyLock<SqlStr> = LazyLock::new(|| {
    let holder = process_columns!("h");
    let mine = process_columns!("m");
    AssertSqlSafe(format!(
        "SELECT {LOCK}, {holder}, {mine}, \
                EXISTS (SELECT 1 FROM waiters w WHERE w.namespace = ?1 AND w.key = ?2) \
         FROM (SELECT 1) \
         LEFT JOIN locks l ON l.namespace = ?1 AND l.key = ?2 \
         LEFT JOIN processes h ON h.namespace = ?1 AND h.process = l.process \
         LEFT JOIN processes m ON m.namespace = ?1 AND m.process = ?3"
    ))
    .into_sql_str()
});

/// Many keys at once. Unused places are NULL, which equals no key.
static KEYS: LazyLock<SqlStr> = LazyLock::new(|| {
    let places = places(2);
    AssertSqlSafe(format!(
        "SELECT {LOCK}, l.key FROM locks l WHERE l.namespace = ?1 AND l.key IN ({places})"
    ))
    .into_sql_str()
});

static EXTEND: LazyLock<SqlStr> = LazyLock::new(|| {
    let places = places(4);
    AssertSqlSafe(format!(
        "UPDATE locks SET expires = max(expires, ?2), extended_at = ?3 \
         WHERE namespace = ?1 AND key IN ({places})"
    ))
    .into_sql_str()
});

fn places(first: usize) -> String {
    let places: Vec<String> = (first..first + BATCH).map(|n| format!("?{n}")).collect();
    places.join(", ")
}

/// What was found under a key.
struct Found {
    lock: Option<Lock>,
    holder: Option<Process>,
    claimant: Option<Process>,
    awaited: bool,
}

/// A release, and whether anybody is to be woken for it.
#[derive(Debug)]
pub(crate) struct Freed {
    pub(crate) released: Released,
    pub(crate) awaited: bool,
}

impl Step<'_> {
    async fn find(
        &mut self,
        key: &Key,
        claimant: Option<&OwnerHash>,
    ) -> Result<Found, BackendError> {
        let row = sqlx::query(KEY.clone())
            .bind(self.scope.namespace)
            .bind(key.as_str())
            .bind(claimant.map(|owner| owner.process().as_str()))
            .fetch_one(&mut *self.connection)
            .await
            .map_err(failed)?;
        Ok(Found {
            lock: Lock::decode(&row, 0, key.as_str())?,
            holder: Process::decode(&row, LOCK_COLUMNS)?,
            claimant: Process::decode(&row, LOCK_COLUMNS + PROCESS_COLUMNS)?,
            awaited: row
                .try_get(LOCK_COLUMNS + 2 * PROCESS_COLUMNS)
                .map_err(failed)?,
        })
    }

    pub(crate) async fn try_create(&mut self, claim: &Claim) -> Result<Claimed, BackendError> {
        self.claim(claim, None).await
    }

    pub(crate) async fn take_over(
        &mut self,
        claim: &Claim,
        observed: &Observed,
    ) -> Result<Claimed, BackendError> {
        self.claim(claim, Some(observed)).await
    }

    /// Both claims: they differ in what they do with a free key and with a dead holder.
    async fn claim(
        &mut self,
        claim: &Claim,
        observed: Option<&Observed>,
    ) -> Result<Claimed, BackendError> {
        // Nothing lands late: this time is later than every settlement that was committed before.
        if self.scope.now.store_time() > claim.not_after {
            return Ok(Claimed::TooLate);
        }
        let found = self.find(claim.key(), Some(&claim.owner)).await?;
        if !found.claimant.is_some_and(|own| own.lives(self.scope)) {
            return Ok(Claimed::OwnerDead);
        }
        let last = found.lock.as_ref().map(|lock| lock.last_token);
        let record = found.lock.as_ref().and_then(|lock| lock.record.as_ref());
        let Some(record) = record.and_then(|record| record.unexpired(self.scope)) else {
            return match observed {
                Some(_) => Ok(Claimed::Absent),
                None => self.grant(claim, last).await.map(Claimed::Granted),
            };
        };
        if record.data.owner == claim.owner {
            self.renew(record, claim).await?;
            return Ok(Claimed::Granted(record.data.token));
        }
        let held = record.held(self.scope, found.holder)?;
        match observed {
            Some(observed) if held.observed == *observed && held.holder == Some(Liveness::Dead) => {
                self.grant(claim, last).await.map(Claimed::Granted)
            }
            _ => Ok(Claimed::Held(held)),
        }
    }

    async fn grant(&mut self, claim: &Claim, last: Option<Token>) -> Result<Token, BackendError> {
        let token = Token::next(last, self.scope.now.wall);
        let number = i64::try_from(token.get()).map_err(|cause| {
            error::corrupt(format!(
                "the tokens of the key {:?} are used up",
                claim.key()
            ))
            .with_source(cause)
        })?;
        let data = LockData::new(claim.owner.clone(), token, self.scope.now.wall);
        sqlx::query(
            "INSERT INTO locks (namespace, key, token, format, owner, process, acquired_at, \
                                extended_at, expires, marked) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, 0) \
             ON CONFLICT (namespace, key) DO UPDATE SET \
                 token = excluded.token, format = excluded.format, owner = excluded.owner, \
                 process = excluded.process, acquired_at = excluded.acquired_at, \
                 extended_at = excluded.extended_at, expires = excluded.expires, \
                 marked = excluded.marked",
        )
        .bind(self.scope.namespace)
        .bind(claim.key().as_str())
        .bind(number)
        .bind(i64::from(data.format))
        .bind(data.owner.as_str())
        .bind(data.process().as_str())
        .bind(self.scope.now.wall_micros())
        .bind(self.scope.now.plus(claim.ttl))
        .execute(&mut *self.connection)
        .await
        .map_err(failed)?;
        Ok(token)
    }

    /// The same claim again: the full TTL, never less than there is left.
    async fn renew(&mut self, record: &Record, claim: &Claim) -> Result<(), BackendError> {
        let expires = record.expires.max(self.scope.now.plus(claim.ttl));
        sqlx::query(
            "UPDATE locks SET expires = ?3, extended_at = ?4 WHERE namespace = ?1 AND key = ?2",
        )
        .bind(self.scope.namespace)
        .bind(claim.key().as_str())
        .bind(expires)
        .bind(self.scope.now.wall_micros())
        .execute(&mut *self.connection)
        .await
        .map_err(failed)?;
        Ok(())
    }

    pub(crate) async fn extend(
        &mut self,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Result<Vec<Result<Standing, BackendError>>, BackendError> {
        let mut answers = Vec::with_capacity(owners.len());
        for chunk in owners.chunks(BATCH) {
            let standings = self.standings(chunk).await?;
            let mine: Vec<&OwnerHash> = chunk
                .iter()
                .zip(&standings)
                .filter(|(_, standing)| matches!(standing, Ok(Standing::Mine)))
                .map(|(owner, _)| owner)
                .collect();
            if !mine.is_empty() {
                let mut update = sqlx::query(EXTEND.clone())
                    .bind(self.scope.namespace)
                    .bind(self.scope.now.plus(ttl))
                    .bind(self.scope.now.wall_micros());
                for place in 0..BATCH {
                    update = update.bind(mine.get(place).map(|owner| owner.key().as_str()));
                }
                update
                    .execute(&mut *self.connection)
                    .await
                    .map_err(failed)?;
            }
            answers.extend(standings);
        }
        Ok(answers)
    }

    /// How these locks stand: one statement for a whole batch. A record that cannot be read is an
    /// error of its own key and of no other.
    pub(crate) async fn standings(
        &mut self,
        owners: &[OwnerHash],
    ) -> Result<Vec<Result<Standing, BackendError>>, BackendError> {
        let mut answers = Vec::with_capacity(owners.len());
        for chunk in owners.chunks(BATCH) {
            let mut select = sqlx::query(KEYS.clone()).bind(self.scope.namespace);
            for place in 0..BATCH {
                select = select.bind(chunk.get(place).map(|owner| owner.key().as_str()));
            }
            let rows = select
                .fetch_all(&mut *self.connection)
                .await
                .map_err(failed)?;
            let mut by_key: HashMap<&[u8], &SqliteRow> = HashMap::with_capacity(rows.len());
            for row in &rows {
                by_key.insert(row.try_get(LOCK_COLUMNS).map_err(failed)?, row);
            }
            for owner in chunk {
                let key = owner.key().as_str();
                answers.push(match by_key.get(key.as_bytes()) {
                    None => Ok(Standing::Absent),
                    Some(row) => {
                        Lock::decode(row, 0, key).map(|lock| self.standing(lock.as_ref(), owner))
                    }
                });
            }
        }
        Ok(answers)
    }

    fn standing(&self, lock: Option<&Lock>, owner: &OwnerHash) -> Standing {
        let record = lock.and_then(|lock| lock.record.as_ref());
        match record.and_then(|record| record.unexpired(self.scope)) {
            None => Standing::Absent,
            Some(record) if record.data.owner != *owner => {
                Standing::Held(record.data.owner.clone())
            }
            Some(record) if record.marked => Standing::Marked,
            Some(_) => Standing::Mine,
        }
    }

    pub(crate) async fn release(&mut self, owner: &OwnerHash) -> Result<Freed, BackendError> {
        let freed = self.scoped(owner).await?;
        if freed.released == Released::Done {
            sqlx::query(
                "UPDATE locks SET format = NULL, owner = NULL, process = NULL, acquired_at = NULL, \
                 extended_at = NULL, expires = NULL, marked = NULL \
                 WHERE namespace = ?1 AND key = ?2",
            )
            .bind(self.scope.namespace)
            .bind(owner.key().as_str())
            .execute(&mut *self.connection)
            .await
            .map_err(failed)?;
        }
        Ok(freed)
    }

    /// An operator's mark. It wakes nobody: the lock is not free yet.
    pub(crate) async fn mark(&mut self, owner: &OwnerHash) -> Result<Freed, BackendError> {
        let freed = self.scoped(owner).await?;
        if freed.released == Released::Done {
            sqlx::query("UPDATE locks SET marked = 1 WHERE namespace = ?1 AND key = ?2")
                .bind(self.scope.namespace)
                .bind(owner.key().as_str())
                .execute(&mut *self.connection)
                .await
                .map_err(failed)?;
        }
        Ok(Freed {
            awaited: false,
            ..freed
        })
    }

    /// Whether the record is this owner's, so that it may be released: `Done` if it is (S4).
    async fn scoped(&mut self, owner: &OwnerHash) -> Result<Freed, BackendError> {
        let found = self.find(owner.key(), None).await?;
        let released = match self.standing(found.lock.as_ref(), owner) {
            Standing::Mine | Standing::Marked => Released::Done,
            Standing::Absent => Released::Absent,
            Standing::Held(other) => Released::Held(other),
        };
        let awaited = found.awaited && released == Released::Done;
        Ok(Freed { released, awaited })
    }

    pub(crate) async fn read_lock(&mut self, key: &Key) -> Result<Option<Held>, BackendError> {
        let found = self.find(key, None).await?;
        let record = found.lock.as_ref().and_then(|lock| lock.record.as_ref());
        record
            .and_then(|record| record.unexpired(self.scope))
            .map(|record| record.held(self.scope, found.holder))
            .transpose()
    }
}
