//! Who waits for a key, in which order, and how they hear that it is free.
//!
//! An enrolment is a row, written before `watch` answers: a release that is committed later finds
//! it. Order: the socket is bound, the row is committed, the caller tries the lock, the caller
//! waits. So a release either comes before that try, which then succeeds, or finds the row.
//!
//! The waiters are read *after* the commit of the release, not inside its transaction: that keeps
//! the write lock short, and misses nobody, for the same reason.

use crate::actor::Caller;
use crate::hints::Hints;
use crate::mailbox::{Letters, Mailbox};
use crate::row::{Process, process_columns};
use crate::session::{Session, failed};
use locker_core::backend::Watcher;
use locker_core::{BackendError, Key};
use sqlx::Row;

/// A step that nobody waits for, and that is done all the same.
#[derive(Debug)]
struct Nobody;

impl Caller for Nobody {
    fn is_gone(&self) -> bool {
        false
    }
    fn begins(&mut self) {}
}

/// What a release has to say, and what it found out.
#[derive(Debug, Default)]
struct Wakes {
    letters: Letters,
    /// Who is written to: enrolment and socket.
    enrolments: Vec<(i64, String)>,
    /// Enrolments to be deleted.
    gone: Vec<(i64, String)>,
}

impl Session {
    /// Enrols a watcher.
    pub(crate) async fn watch(
        &mut self,
        caller: &mut (dyn Caller + Send),
        key: &Key,
        watcher: &Watcher,
    ) -> Result<Hints, BackendError> {
        if self.mailbox.is_none() {
            self.mailbox = Some(Mailbox::bind(&self.config().path, &self.hub));
        }
        let socket = self.mailbox.as_ref().map_or("", Mailbox::name).to_owned();
        let hub = std::sync::Arc::clone(&self.hub);
        let step = self.write(caller).await?;
        let process = match watcher {
            Watcher::Waiter(process) => Some(process.as_str()),
            Watcher::Observer => None,
        };
        let enrolled = sqlx::query(
            "INSERT INTO waiters (namespace, key, process, socket) VALUES (?1, ?2, ?3, ?4)",
        )
        .bind(step.scope.namespace)
        .bind(key.as_str())
        .bind(process)
        .bind(socket)
        .execute(&mut *step.connection)
        .await
        .map_err(failed)
        // The stream is there before anybody can see the row. If COMMIT fails it is dropped, and
        // withdraws what may have been written.
        .map(|inserted| hub.open(inserted.last_insert_rowid()));
        step.finish(enrolled).await.map(|reply| reply.value)
    }

    /// Hints to everybody who watches one of these keys. The locks are free whether this works or
    /// not.
    pub(crate) async fn wake(&mut self, keys: &[Key]) {
        let mut wakes = Wakes::default();
        for key in keys {
            if let Err(error) = self.gather(key, &mut wakes).await {
                tracing::debug!(%error, "waiters were not woken; they poll");
            }
        }
        // One letter for each socket, whatever the number of keys: its queue is short.
        let dead = wakes.letters.send(&self.config().path);
        let unreachable = wakes.enrolments.into_iter();
        wakes
            .gone
            .extend(unreachable.filter(|(_, socket)| dead.contains(socket)));
        // Deleting them takes a write lock, for which no caller of a release shall wait.
        self.forgettable.append(&mut wakes.gone);
    }

    async fn gather(&mut self, key: &Key, wakes: &mut Wakes) -> Result<(), BackendError> {
        let step = self.read().await?;
        let rows = sqlx::query(concat!(
            "SELECT w.id, w.socket, w.process IS NULL, ",
            process_columns!("p"),
            " FROM waiters w LEFT JOIN processes p \
             ON p.namespace = w.namespace AND p.process = w.process \
             WHERE w.namespace = ?1 AND w.key = ?2 ORDER BY w.id"
        ))
        .bind(step.scope.namespace)
        .bind(key.as_str())
        .fetch_all(&mut *step.connection)
        .await
        .map_err(failed)?;
        let scope = step.scope;
        let mut place = 0;
        for row in &rows {
            let id: i64 = row.try_get(0).map_err(failed)?;
            // A name that is damaged leads nowhere, and hides nobody who stands behind it.
            let Ok(socket) = row.try_get::<String, _>(1) else {
                continue;
            };
            if row.try_get(2).map_err(failed)? {
                wakes.letters.free(&socket, id, 0);
            } else if Process::decode(row, 3)?.is_some_and(|process| process.lives(scope)) {
                wakes.letters.free(&socket, id, place);
                place += 1;
            } else {
                // A dead process has no place in the order, and delays nobody a second time.
                wakes.letters.gone(&socket, id);
                wakes.gone.push((id, socket));
                continue;
            }
            wakes.enrolments.push((id, socket));
        }
        Ok(())
    }

    /// Deletes enrolments. The socket is compared because numbers may be given a second time.
    pub(crate) async fn forget(
        &mut self,
        caller: &mut (dyn Caller + Send),
        enrolments: &[(i64, String)],
    ) -> Result<(), BackendError> {
        if enrolments.is_empty() {
            return Ok(());
        }
        let step = self.write(caller).await?;
        let forgotten = async {
            for (id, socket) in enrolments {
                sqlx::query("DELETE FROM waiters WHERE id = ?1 AND socket = ?2")
                    .bind(id)
                    .bind(socket)
                    .execute(&mut *step.connection)
                    .await
                    .map_err(failed)?;
            }
            Ok(())
        }
        .await;
        step.finish(forgotten).await.map(|_| ())
    }

    /// Whether there are enrolments to be deleted.
    pub(crate) fn is_untidy(&self) -> bool {
        !self.forgettable.is_empty() || self.hub.has_withdrawn()
    }

    /// Deletes the enrolments of dropped streams and of the dead; what cannot be deleted now is kept.
    pub(crate) async fn tidy(&mut self) {
        let socket = self.mailbox.as_ref().map_or("", Mailbox::name);
        let withdrawn = self.hub.take_withdrawn().into_iter();
        let mut enrolments = std::mem::take(&mut self.forgettable);
        enrolments.extend(withdrawn.map(|id| (id, socket.to_owned())));
        if let Err(error) = self.forget(&mut Nobody, &enrolments).await {
            tracing::debug!(%error, "enrolments are deleted after the next step");
            self.forgettable = enrolments;
        }
    }

    /// The end of the connection is the end of all its enrolments.
    pub(crate) async fn unwatch_all(&mut self) {
        self.hub.end_all();
        let Some(mailbox) = self.mailbox.take() else {
            return;
        };
        let name = mailbox.name().to_owned();
        drop(mailbox);
        // If this fails, whoever sends to the socket finds it dead and forgets the rows.
        let unwatched = async {
            let step = self.write(&mut Nobody).await?;
            let deleted = sqlx::query("DELETE FROM waiters WHERE socket = ?1")
                .bind(name)
                .execute(&mut *step.connection)
                .await
                .map_err(failed);
            step.finish(deleted).await
        };
        if let Err(error) = unwatched.await {
            tracing::debug!(%error, "enrolments of a closed connection are left to others");
        }
    }
}
