//! The operations on process records. Death is one-way; the steps are in `scripts/process.lua`.
//!
//! # Requests that arrive twice, or late
//!
//! A birth that arrives a second time finds the record, or its tombstone, and answers `Exists`: the
//! locker abandons an incarnation whose birth it is not sure of, and its record dies by itself. A
//! renewal never creates and never shortens. A retirement that has happened changes nothing, and a
//! reading never does.

use crate::cluster::primaries::{Death, STRAGGLER, Waits};
use crate::cluster::slots;
use crate::connection::bounded;
use crate::error;
use crate::locks::micros;
use crate::reply;
use crate::script::{Answered, Argument, send_process};
use crate::session::Session;
use locker_core::backend::{Answer, Birth, Liveness, Renewal, Reply};
use locker_core::{BackendError, ProcessHash};
use std::time::Duration;

impl Session {
    async fn process(
        &self,
        process: &ProcessHash,
        operation: &'static str,
        ttl: Duration,
    ) -> Result<Answered, BackendError> {
        let key = self.names.process(process);
        let answer = send_process(&self.connection, &key, operation, micros(ttl)).await;
        match answer {
            Err(cause) if cause.kind().breaks_connection() && self.connection.is_cluster() => {
                Err(self.of_its_primary(cause).await)
            }
            answer => answer,
        }
    }

    /// A failure of an operation on a process of a cluster. It closes nothing where the client of the cluster
    /// does its work: that opens the connection to this primary anew by itself, so another client would be
    /// told the same, and with this one the connections to the others would go.
    ///
    /// A refusal shows that it does. Where nothing was heard somebody else is asked over this very client.
    async fn of_its_primary(&self, cause: BackendError) -> BackendError {
        let serves = !cause.is_unanswered() || {
            let asked = bounded(STRAGGLER, slots::ask(&self.connection));
            asked.await.is_ok()
        };
        if serves {
            error::of_one_primary(cause)
        } else {
            cause
        }
    }

    pub(crate) async fn create_process(
        &self,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Birth> {
        let Answered { time, fields } = self.process(process, "birth", ttl).await?;
        let birth = match reply::word(&fields) {
            Some("created") => Birth::Created { valid_for: ttl },
            Some("exists") => Birth::Exists,
            _ => return Err(error::unexpected("a birth")),
        };
        Ok(Reply::at(time, birth))
    }

    pub(crate) async fn renew_process(
        &self,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Renewal> {
        let Answered { time, fields } = self.process(process, "renew", ttl).await?;
        let renewal = match reply::word(&fields) {
            Some("renewed") => Renewal::Renewed { valid_for: ttl },
            Some("gone") => Renewal::Gone,
            Some("corrupt") => return Err(reply::unreadable_process(process)),
            _ => return Err(error::unexpected("a renewal")),
        };
        Ok(Reply::at(time, renewal))
    }

    pub(crate) async fn retire_process(&self, process: &ProcessHash) -> Answer<()> {
        let Answered { time, fields } = self.process(process, "retire", Duration::ZERO).await?;
        match reply::word(&fields) {
            Some("gone") => {}
            Some("corrupt") => return Err(reply::unreadable_process(process)),
            _ => return Err(error::unexpected("a retirement")),
        }
        self.wake_after(process).await;
        Ok(Reply::at(time, ()))
    }

    /// Wakes the waiters of the locks that a retirement has freed, and ends what the process itself
    /// waits for. Its locks are free whether this works or not.
    async fn wake_after(&self, process: &ProcessHash) {
        self.shared.end_watches(process);
        let keys = self.shared.grants.take(process);
        let members = keys
            .iter()
            .map(|key| self.member(key, "wake", [Argument::Process(process.clone())]));
        if let Err(error) = self.send_all(members.collect(), Waits::ForAll).await {
            tracing::debug!(%error, "waiters of a retired process were not woken; they poll");
        }
    }

    pub(crate) async fn read_process(&self, process: &ProcessHash) -> Answer<Liveness> {
        let looked = self.look_at_process(process, Death::IsFinal).await?;
        Ok(looked.map(|(liveness, _)| liveness))
    }

    /// Liveness, and how long it lasts without a renewal.
    pub(crate) async fn look_at_process(
        &self,
        process: &ProcessHash,
        death: Death,
    ) -> Answer<(Liveness, Duration)> {
        let key = self.names.process(process);
        let Answered { time, fields } = self.read_process_at_key(&key, death).await?;
        let looked = reply::liveness(time, process, &fields)?;
        if death == Death::IsFinal && reply::has_lived(&fields) {
            self.shared.dead.note(process);
        }
        Ok(Reply::at(time, looked))
    }
}
