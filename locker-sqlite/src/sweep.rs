//! Forgetting. Rows that are free or dead for longer than the retention are looked for by reading,
//! which blocks nobody, and deleted in small transactions that judge each of them again.

use crate::actor::Caller;
use crate::row::process_columns;
use crate::session::{Session, failed};
use locker_core::BackendError;
use locker_core::backend::Answer;
use sqlx::Row;
use std::time::Duration;

/// How many rows one reading looks at, and one transaction deletes at most.
const SCAN: u32 = 256;

/// What may be forgotten of one table.
struct Kind {
    /// Finds rows after a name: `?1` namespace, `?2` name, `?3` now, `?4` the time before which.
    find: &'static str,
    /// Deletes one of them if it still may be forgotten: the same parameters.
    delete: &'static str,
}

/// A lock's last token may go when the clock has passed it by the retention (S2).
const LOCKS: Kind = Kind {
    find: "SELECT key, (owner IS NULL OR expires <= ?3) AND token < ?4 FROM locks \
           WHERE namespace = ?1 AND key > CAST(?2 AS TEXT) ORDER BY key LIMIT ?5",
    delete: "DELETE FROM locks WHERE namespace = ?1 AND key = CAST(?2 AS TEXT) \
             AND (owner IS NULL OR expires <= ?3) AND token < ?4",
};

/// A dead process's name may go when nothing that could repeat its birth is under way.
const PROCESSES: Kind = Kind {
    find: "SELECT process, expires <= ?3 AND expires < ?4 FROM processes \
           WHERE namespace = ?1 AND process > CAST(?2 AS TEXT) ORDER BY process LIMIT ?5",
    delete: "DELETE FROM processes WHERE namespace = ?1 AND process = CAST(?2 AS TEXT) \
             AND expires <= ?3 AND expires < ?4",
};

impl Session {
    pub(crate) async fn sweep(
        &mut self,
        caller: &mut (dyn Caller + Send),
        retention: Duration,
    ) -> Answer<u64> {
        let micros = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        let nanos = i64::try_from(retention.as_nanos()).unwrap_or(i64::MAX);
        let before = self.read().await?.scope.now;
        let mut swept = self
            .sweep_kind(caller, &LOCKS, before.wall_micros().saturating_sub(micros))
            .await?;
        swept += self
            .sweep_kind(caller, &PROCESSES, before.nanos().saturating_sub(nanos))
            .await?;
        self.sweep_waiters(caller).await?;
        crate::mailbox::remove_stale(&self.config().path);
        Ok(self.read().await?.answer(swept))
    }

    async fn sweep_kind(
        &mut self,
        caller: &mut (dyn Caller + Send),
        kind: &Kind,
        until: i64,
    ) -> Result<u64, BackendError> {
        let mut swept = 0;
        let mut after: Vec<u8> = Vec::new();
        // Whoever asked has gone: what was deleted is deleted, and the rest waits for the next one.
        while !caller.is_gone() {
            let step = self.read().await?;
            let rows = sqlx::query(kind.find)
                .bind(step.scope.namespace)
                .bind(&after)
                .bind(step.scope.now.nanos())
                .bind(until)
                .bind(SCAN)
                .fetch_all(&mut *step.connection)
                .await
                .map_err(failed)?;
            let mut names: Vec<Vec<u8>> = Vec::new();
            for row in &rows {
                let name: Vec<u8> = row.try_get(0).map_err(failed)?;
                if row.try_get::<bool, _>(1).unwrap_or(false) {
                    names.push(name.clone());
                }
                after = name;
            }
            swept += self.delete(caller, kind, &names, until).await?;
            if rows.len() < SCAN as usize {
                break;
            }
        }
        Ok(swept)
    }

    async fn delete(
        &mut self,
        caller: &mut (dyn Caller + Send),
        kind: &Kind,
        names: &[Vec<u8>],
        until: i64,
    ) -> Result<u64, BackendError> {
        if names.is_empty() {
            return Ok(0);
        }
        let step = self.write(caller).await?;
        let deleted = async {
            let mut deleted = 0;
            for name in names {
                let done = sqlx::query(kind.delete)
                    .bind(step.scope.namespace)
                    .bind(name)
                    .bind(step.scope.now.nanos())
                    .bind(until)
                    .execute(&mut *step.connection)
                    .await
                    .map_err(failed)?;
                deleted += done.rows_affected();
            }
            Ok(deleted)
        }
        .await;
        step.finish(deleted).await.map(|reply| reply.value)
    }

    /// Enrolments of processes that are dead. Those of observers go when their socket is found dead.
    async fn sweep_waiters(
        &mut self,
        caller: &mut (dyn Caller + Send),
    ) -> Result<(), BackendError> {
        let step = self.read().await?;
        let rows = sqlx::query(concat!(
            "SELECT w.id, w.socket, ",
            process_columns!("p"),
            " FROM waiters w LEFT JOIN processes p \
             ON p.namespace = w.namespace AND p.process = w.process \
             WHERE w.namespace = ?1 AND w.process IS NOT NULL ORDER BY w.id LIMIT 4096"
        ))
        .bind(step.scope.namespace)
        .fetch_all(&mut *step.connection)
        .await
        .map_err(failed)?;
        let scope = step.scope;
        let mut dead = Vec::new();
        for row in &rows {
            let process = crate::row::Process::decode(row, 2)?;
            // A damaged name is left: nobody is woken by it, and nobody waits for it.
            if let (Ok(id), Ok(socket)) = (row.try_get(0), row.try_get(1))
                && !process.is_some_and(|process| process.lives(scope))
            {
                dead.push((id, socket));
            }
        }
        self.forget(caller, &dead).await
    }
}
