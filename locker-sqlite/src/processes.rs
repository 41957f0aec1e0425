//! The steps on process records: birth, renewal, retirement. Death is one-way.

use crate::actor::Caller;
use crate::boot::Boot;
use crate::error;
use crate::liveness::{Liveness as Bytes, Taken};
use crate::reboot::clock_of;
use crate::row::{Process, process_columns};
use crate::session::{Session, Step, failed};
use locker_core::backend::{Answer, Birth, Liveness, Renewal, Reply};
use locker_core::{BackendError, Effect, Key, ProcessHash};
use sqlx::Row;
use std::time::Duration;

impl Session {
    pub(crate) async fn create_process(
        &mut self,
        caller: &mut (dyn Caller + Send),
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Birth> {
        let byte = Bytes::byte_of(process);
        let mut step = self.write(caller).await?;
        let mut taken = None;
        let born = step.create_process(process, byte, ttl, &mut taken).await;
        let answer = step.finish(born).await;
        // The byte of a record that certainly is not there says nothing to anybody. If COMMIT
        // failed the record may be there, and then it must not look dead: the byte stays.
        let unborn = answer
            .as_ref()
            .is_err_and(|error| error.effect() == Effect::NotApplied);
        if unborn && taken == Some(Taken::Now) {
            self.liveness().give_back(byte);
        }
        answer
    }

    pub(crate) async fn renew_process(
        &mut self,
        caller: &mut (dyn Caller + Send),
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Renewal> {
        // The file in which this process lives is no longer the one that others will find at the
        // path: whoever opens it there knows nothing of this process, so it is lost (attack 13e).
        // Nothing is opened to answer that, because nothing may be there to be opened.
        if self.is_replaced() {
            let now = crate::boot::Now::read()?;
            return Ok(Reply::at(now.store_time(), Renewal::Gone));
        }
        let mut step = self.write(caller).await?;
        let renewed = step.renew_process(process, ttl).await;
        let answer = step.finish(renewed).await?;
        // Replaced while the step was being done: it may have been done to the old file.
        Ok(if self.is_replaced() {
            answer.map(|_| Renewal::Gone)
        } else {
            answer
        })
    }

    pub(crate) async fn retire_process(
        &mut self,
        caller: &mut (dyn Caller + Send),
        process: &ProcessHash,
    ) -> Answer<()> {
        let mut step = self.write(caller).await?;
        let retired = step.retire_process(process).await;
        let retired = step.finish(retired).await?;
        // The record has ended, so the byte says nothing any more.
        self.liveness().give_back(Bytes::byte_of(process));
        self.wake(&retired.value).await;
        Ok(retired.map(|_| ()))
    }
}

impl Step<'_> {
    async fn create_process(
        &mut self,
        process: &ProcessHash,
        byte: i64,
        ttl: Duration,
        taken: &mut Option<Taken>,
    ) -> Result<Birth, BackendError> {
        // Another kernel may have taken the file for its own since it was opened here.
        if clock_of(self.connection).await.map_err(failed)? != Boot::current()? {
            return Err(error::config(
                "the store was taken over under another kernel or time namespace; this store \
                 keeps the processes of one machine apart"
                    .to_owned(),
            ));
        }
        if self.find_process(process).await?.is_some() {
            return Ok(Birth::Exists);
        }
        // The byte is locked before the record is committed: nobody ever sees the record of a living
        // process with a free byte.
        let locked = self.scope.liveness.take(byte).map_err(|cause| {
            error::config(
                "the file system keeps no byte locks; put the store on a local disk".into(),
            )
            .with_source(cause)
        })?;
        *taken = Some(locked);
        if locked == Taken::Elsewhere {
            return Err(error::unavailable(
                "the liveness byte of this process is another's; a fresh incarnation has another",
            ));
        }
        let (device, inode) = self.scope.liveness.id().to_columns();
        sqlx::query(
            "INSERT INTO processes (namespace, process, alive_at, expires, device, inode, byte) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .bind(self.scope.namespace)
        .bind(process.as_str())
        .bind(self.scope.now.wall_micros())
        .bind(self.scope.now.plus(ttl))
        .bind(device)
        .bind(inode)
        .bind(byte)
        .execute(&mut *self.connection)
        .await
        .map_err(failed)?;
        Ok(Birth::Created { valid_for: ttl })
    }

    async fn renew_process(
        &mut self,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Result<Renewal, BackendError> {
        let renewed = sqlx::query(
            "UPDATE processes SET expires = max(expires, ?3), alive_at = ?4 \
             WHERE namespace = ?1 AND process = ?2 AND expires > ?5",
        )
        .bind(self.scope.namespace)
        .bind(process.as_str())
        .bind(self.scope.now.plus(ttl))
        .bind(self.scope.now.wall_micros())
        .bind(self.scope.now.nanos())
        .execute(&mut *self.connection)
        .await
        .map_err(failed)?;
        Ok(match renewed.rows_affected() {
            0 => Renewal::Gone,
            _ => Renewal::Renewed { valid_for: ttl },
        })
    }

    /// Ends the record, which stays as a tombstone; answers the keys whose waiters are to be woken.
    async fn retire_process(&mut self, process: &ProcessHash) -> Result<Vec<Key>, BackendError> {
        sqlx::query(
            "UPDATE processes SET expires = min(expires, ?3) WHERE namespace = ?1 AND process = ?2",
        )
        .bind(self.scope.namespace)
        .bind(process.as_str())
        .bind(self.scope.now.nanos())
        .execute(&mut *self.connection)
        .await
        .map_err(failed)?;
        // Driven by the waiters, who are few, not by the locks, which have no index by process.
        let rows = sqlx::query(
            "SELECT l.key FROM (SELECT DISTINCT key FROM waiters WHERE namespace = ?1) w \
             CROSS JOIN locks l ON l.namespace = ?1 AND l.key = w.key \
             WHERE l.process = ?2 AND l.expires > ?3",
        )
        .bind(self.scope.namespace)
        .bind(process.as_str())
        .bind(self.scope.now.nanos())
        .fetch_all(&mut *self.connection)
        .await
        .map_err(failed)?;
        let key = |row: &sqlx::sqlite::SqliteRow| Key::new(row.try_get::<&str, _>(0).ok()?).ok();
        Ok(rows.iter().filter_map(key).collect())
    }

    pub(crate) async fn read_process(
        &mut self,
        process: &ProcessHash,
    ) -> Result<Liveness, BackendError> {
        match self.find_process(process).await? {
            Some(found) if found.lives(self.scope) => Ok(Liveness::Alive(found.data(process)?)),
            Some(_) | None => Ok(Liveness::Dead),
        }
    }

    async fn find_process(
        &mut self,
        process: &ProcessHash,
    ) -> Result<Option<Process>, BackendError> {
        let row = sqlx::query(concat!(
            "SELECT ",
            process_columns!("p"),
            " FROM processes p WHERE p.namespace = ?1 AND p.process = ?2"
        ))
        .bind(self.scope.namespace)
        .bind(process.as_str())
        .fetch_optional(&mut *self.connection)
        .await
        .map_err(failed)?;
        row.map_or(Ok(None), |row| Process::decode(&row, 0))
    }
}
