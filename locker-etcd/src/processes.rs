//! The transactions on processes: birth, renewal, retirement, and how a claim learns of its own.

use crate::base::Raise;
use crate::error::{self, Request, from_client};
use crate::locks::Terms;
use crate::record::{Process, decode_process, process_value};
use crate::session::Session;
use crate::shared::{Base, Own};
use etcd_client::{
    Compare, CompareOp, Error as ClientError, LeaseGrantOptions, LeaseGrantResponse, PutOptions,
    Txn, TxnOp,
};
use futures_util::future::try_join3;
use locker_core::backend::{Birth, Liveness, Renewal};
use locker_core::{BackendError, ProcessHash};
use std::time::Duration;

/// How long it is remembered that a name was used, in seconds. A request that is delivered later
/// than this belongs to a connection that nobody has any more: a kernel sends again for a quarter
/// of an hour.
const REMEMBERED_SECS: i64 = 3600;

impl Process {
    pub(crate) fn own(&self) -> Own {
        Own {
            generation: self.generation,
            ttl: self.ttl,
        }
    }
}

impl Session {
    /// The terms of a claim of this process; `None` when it is not alive.
    ///
    /// They are known from its birth, and learned anew from every refusal. Only a connection that
    /// has seen neither must ask.
    pub(crate) async fn terms(&self, process: &ProcessHash) -> Result<Option<Terms>, BackendError> {
        let known = (self.shared.own(process), self.shared.base());
        if let (Some(own), Some(base)) = known {
            return Ok(Some(Terms { own, base }));
        }
        let ask = Txn::new().and_then([
            TxnOp::get(self.names.process(process), None),
            TxnOp::get(self.names.base(), None),
        ]);
        let done = self.transact(ask, Request::Read).await?;
        let own = decode_process(done.found(0)?)?.map(|process| process.own());
        self.shared.learn_own(process, own);
        let Some(own) = own else {
            return Ok(None);
        };
        let base = match (known.1, Base::decode(done.found(1)?)?) {
            (Some(_), Some(base)) => base,
            // It is missing, or it may be that of a restored cluster.
            _ => self.raised_base().await?,
        };
        self.shared.learn_base(Some(base));
        Ok(Some(Terms { own, base }))
    }

    /// The terms of a claim that was refused under these, if only the base has changed since.
    pub(crate) fn raised_since(&self, process: &ProcessHash, terms: Terms) -> Option<Terms> {
        let base = self.shared.base().filter(|base| *base != terms.base)?;
        let unchanged = self.shared.own(process) == Some(terms.own);
        unchanged.then_some(Terms { base, ..terms })
    }

    pub(crate) async fn read_process(
        &self,
        process: &ProcessHash,
    ) -> Result<Liveness, BackendError> {
        let found = self.get(self.names.process(process), None).await?;
        Ok(decode_process(found.kvs())?
            .map_or(Liveness::Dead, |process| Liveness::Alive(process.data)))
    }

    /// Grants the lease of the process and puts its record on it, once.
    ///
    /// The name is remembered on a lease of its own, which outlasts the process: a second birth
    /// under it is refused also when the first one's record has gone.
    pub(crate) async fn create_process(
        &self,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Result<Birth, BackendError> {
        let lease = self.names.lease(process);
        let (granted, remembered, base) = try_join3(
            self.grant(seconds(ttl), lease),
            self.grant(REMEMBERED_SECS, 0),
            self.get(self.names.base(), None),
        )
        .await?;
        let (granted, remembered) = match (granted, remembered) {
            (Some(granted), Some(remembered)) => (granted, remembered),
            // Somebody of this name has been here. (An id that etcd chooses is never taken.)
            (_, remembered) => {
                self.give_back(remembered.map(|lease| lease.id())).await;
                return Ok(Birth::Exists);
            }
        };
        let granted_for = Duration::from_secs(granted.ttl().unsigned_abs());
        let raise = Raise::of(&base)?;
        let name = self.names.process(process);
        let born = self.names.born(process);
        let on = |lease| Some(PutOptions::new().with_lease(lease));
        let birth = Txn::new()
            .when([
                Compare::version(&*name, CompareOp::Equal, 0),
                Compare::version(&*born, CompareOp::Equal, 0),
            ])
            .and_then([
                TxnOp::txn(raise.txn(self)),
                TxnOp::put(&*name, process_value(process, granted_for), on(lease)),
                TxnOp::put(&*born, "", on(remembered.id())),
            ]);
        let done = self.transact(birth, Request::Write).await?;
        if !done.succeeded {
            // Both leases are of this very call, and nothing hangs on them.
            self.give_back([lease, remembered.id()]).await;
            return Ok(Birth::Exists);
        }
        self.shared.learn_base(raise.done(&done.nested(0)?)?);
        let own = Own {
            generation: done.revision,
            ttl: granted_for,
        };
        self.shared.learn_own(process, Some(own));
        Ok(Birth::Created {
            valid_for: granted_for.min(ttl),
        })
    }

    /// Keeps the lease alive, and then reads the record of the process.
    ///
    /// The read acknowledges it. The keep-alive alone would not do: the leader answers it from
    /// memory, and before 3.4.38, 3.5.23 and 3.6.5 also for a lease that has been revoked. What
    /// counts is when the keep-alive was sent.
    ///
    /// Each renewal has a stream of its own: on a common one, the answer to a renewal that was given
    /// up would be taken for that to the next.
    pub(crate) async fn renew_process(
        &self,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Result<Renewal, BackendError> {
        let lease = self.names.lease(process);
        let kept = match self.connection.lease().keep_alive(lease).await {
            Ok(_stream) => Ok(()),
            // It is for the record to say whether the process is dead.
            Err(cause) if error::is_no_lease(&cause) => Err(cause),
            Err(cause) => return Err(from_client(cause, Request::Write)),
        };
        let found = self.get(self.names.process(process), None).await?;
        let alive = found.kvs().first().filter(|kv| kv.lease() == lease);
        let Some(record) = alive else {
            self.shared.learn_own(process, None);
            return Ok(Renewal::Gone);
        };
        if let Err(cause) = kept {
            // A new leader that does not know the lease yet, for one.
            return Err(
                error::unavailable("etcd does not know the lease of a living process")
                    .with_source(from_client(cause, Request::Read)),
            );
        }
        let record = crate::record::process_of(record)?;
        self.shared.learn_own(process, Some(record.own()));
        Ok(Renewal::Renewed {
            valid_for: record.ttl.min(ttl),
        })
    }

    /// Revokes the lease: the record of the process, its locks and its enrolments go in one step,
    /// and whoever watches one of them is told.
    pub(crate) async fn retire_process(&self, process: &ProcessHash) -> Result<(), BackendError> {
        let revoked = self
            .connection
            .lease()
            .revoke(self.names.lease(process))
            .await;
        match revoked {
            Ok(_) => {}
            Err(cause) if error::is_no_lease(&cause) => {}
            Err(cause) => return Err(from_client(cause, Request::Write)),
        }
        self.shared.learn_own(process, None);
        Ok(())
    }

    /// Grants a lease; `None` if there is one of this id.
    async fn grant(&self, secs: i64, id: i64) -> Result<Option<LeaseGrantResponse>, BackendError> {
        let options = LeaseGrantOptions::new().with_id(id);
        match self.connection.lease().grant(secs, Some(options)).await {
            Ok(granted) => Ok(Some(granted)),
            Err(cause) if error::is_lease_taken(&cause) => Ok(None),
            Err(cause) => Err(from_client(cause, Request::Write)),
        }
    }

    /// Revokes leases that nothing hangs on. One that cannot be revoked now ends by itself.
    async fn give_back(&self, leases: impl IntoIterator<Item = i64>) {
        for lease in leases {
            let _: Result<_, ClientError> = self.connection.lease().revoke(lease).await;
        }
    }
}

/// etcd's leases last whole seconds. It rounds up to the least that it grants, and says so.
fn seconds(ttl: Duration) -> i64 {
    let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_never_shorter_than_what_it_is_for() {
        let seconds = |millis| seconds(Duration::from_millis(millis));
        assert_eq!([0, 1, 999, 1000, 1001].map(seconds), [1, 1, 1, 1, 2]);
    }
}
