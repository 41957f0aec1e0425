//! What several tasks ask of etcd while a transaction is in flight is one transaction of nested
//! ones: a commit costs a write to the disks of a majority, and so much for one lock or for sixty.
//!
//! `locker-coalesce` decides what travels with what, and says why nothing is sent after its caller
//! left. A claim bears the terms under which it was made, however long it has waited: whoever has
//! settled its owner meanwhile has changed them, and it is refused.
//!
//! A member has comparisons and an answer of its own, so what becomes of one is nothing to the others.
//! What is refused as a whole is judged by the gate: sent again apart where a member may be to blame
//! (a key that the user may not write), told to everybody where none is.
//!
//! A full store is told to everybody as well, and as a doubt: etcd may have done what it refuses
//! ([`is_full`](crate::error::is_full)). A release that was refused in such company goes to the Reporter,
//! which sends nothing that needs room. It is not repeated here: it would find what the first one left, and
//! take it for a loss.

use crate::error::Request;
use crate::locks::Terms;
use crate::session::{BATCH, Done, Session};
use etcd_client::Txn;
use locker_coalesce::{Carrier, Gate, Limits};
use locker_core::backend::Observed;
use locker_core::{BackendError, ErrorKind, OwnerHash};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub(crate) type Gathering = Gate<Transactions>;

/// What is asked about one lock.
#[derive(Debug, Clone)]
pub(crate) enum Member {
    /// See [`Session::create_txn`].
    Create { owner: OwnerHash, terms: Terms },
    /// See [`Session::take_over_txn`].
    TakeOver {
        owner: OwnerHash,
        observed: Observed,
        terms: Terms,
    },
    /// See [`Session::release_txn`].
    Release { owner: OwnerHash },
}

/// Sends members as transactions on one connection.
#[derive(Debug)]
pub(crate) struct Transactions(Arc<Session>);

/// The gate of a connection of the current runtime.
///
/// Most of a transaction's time is a wait for the disks of a majority, and the server works on another one
/// meanwhile: where many operations wait, two halves of them are faster than the whole.
pub(crate) fn over(session: &Arc<Session>) -> Gathering {
    const LIMITS: Limits = match (NonZeroUsize::new(BATCH), NonZeroUsize::new(BATCH / 2)) {
        (Some(batch), Some(half)) => Limits {
            flights: NonZeroUsize::MIN.saturating_add(1),
            together: half,
            ..Limits::batches_of(batch)
        },
        _ => panic!("half a batch holds something"),
    };
    Gate::new(Transactions(Arc::clone(session)), LIMITS)
}

impl Member {
    fn owner(&self) -> &OwnerHash {
        match self {
            Self::Create { owner, .. } | Self::TakeOver { owner, .. } | Self::Release { owner } => {
                owner
            }
        }
    }

    fn txn(&self, session: &Session) -> Txn {
        match self {
            Self::Create { owner, terms } => session.create_txn(owner, *terms),
            Self::TakeOver {
                owner,
                observed,
                terms,
            } => session.take_over_txn(owner, observed, *terms),
            Self::Release { owner } => session.release_txn(owner),
        }
    }

    /// Whether it puts something where there may be nothing yet.
    fn grows(&self) -> bool {
        match self {
            Self::Create { .. } | Self::TakeOver { .. } => true,
            Self::Release { .. } => false,
        }
    }
}

impl Carrier for Transactions {
    type Op = Member;
    type Answer = Done;

    fn key(member: &Member) -> impl Hash {
        member.owner().key()
    }

    async fn carry_one(&self, member: &Member) -> Result<Done, BackendError> {
        let session = &*self.0;
        session.transact(member.txn(session), Request::Write).await
    }

    async fn carry(
        &self,
        members: &[Member],
    ) -> Result<Vec<Result<Done, BackendError>>, BackendError> {
        let session = &*self.0;
        let grows = members.iter().any(Member::grows);
        let txns = members.iter().map(|member| member.txn(session)).collect();
        let done = session.transact_all(txns, Request::Write, grows).await?;
        Ok(done.into_iter().map(Ok).collect())
    }

    /// Too many proposals are waiting for the disks of a majority.
    fn is_overload(error: &BackendError) -> bool {
        error.kind() == ErrorKind::Busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Connection;
    use crate::names::Names;
    use crate::shared::Shared;
    use crate::url::Address;
    use locker_core::backend::{Claimed, Released};
    use locker_core::{Host, Key, ProcessHash};
    use locker_testkit::servers::etcd::shared;
    use std::time::Duration;

    async fn carrier() -> Transactions {
        let server = shared::server().unwrap_or_else(|missing| panic!("no store: {missing}"));
        let address = Address::parse(server.url()).unwrap();
        let (connection, _) = Connection::open(&address, 0, b"probe").await.unwrap();
        Transactions(Arc::new(Session {
            connection,
            names: Names::new("batches"),
            shared: Arc::new(Shared::default()),
        }))
    }

    fn owner(process: &ProcessHash, number: usize) -> OwnerHash {
        let key = Key::new(format!("k{number}")).unwrap();
        OwnerHash::new(&key, process, number as u64, None)
    }

    async fn claim(carrier: &Transactions, owner: OwnerHash) -> Claimed {
        let terms = carrier.0.terms(owner.process()).await.unwrap().unwrap();
        let asked = Member::Create {
            owner: owner.clone(),
            terms,
        };
        let done = carrier.carry_one(&asked).await.unwrap();
        carrier.0.created(&owner, terms, &done).unwrap()
    }

    /// Attack 3: as many members as there may be, each with an answer of its own, whatever becomes
    /// of the others.
    #[tokio::test]
    async fn a_whole_batch_travels_as_one_transaction_and_is_answered_one_by_one() {
        let carrier = carrier().await;
        let session = &*carrier.0;
        let host = Host::new("here").unwrap();
        let [mine, theirs] = [1, 2].map(|nonce| ProcessHash::new(&host, 1, nonce));
        for process in [&mine, &theirs] {
            let long = Duration::from_secs(60);
            session.create_process(process, long).await.unwrap();
        }
        let terms = session.terms(&mine).await.unwrap().unwrap();
        claim(&carrier, owner(&theirs, 7)).await;
        claim(&carrier, owner(&mine, 8)).await;
        let corrupt = session.names.owner(owner(&mine, 9).key());
        let mut kv = session.connection.kv();
        kv.put(corrupt, "{", None).await.unwrap();

        let owners: Vec<OwnerHash> = (0..BATCH).map(|number| owner(&mine, number)).collect();
        let claims = owners.iter().cloned();
        let claims = claims.map(|owner| Member::Create { owner, terms });
        let answers = carrier.carry(&claims.collect::<Vec<_>>()).await.unwrap();
        for (number, (owner, done)) in owners.iter().zip(answers).enumerate() {
            match (number, session.created(owner, terms, &done.unwrap())) {
                (7, claimed) => assert!(matches!(claimed, Ok(Claimed::Held(_))), "{claimed:?}"),
                (9, claimed) => assert!(claimed.is_err(), "{claimed:?}"),
                (_, claimed) => {
                    assert!(matches!(claimed, Ok(Claimed::Granted(_))), "{claimed:?}");
                }
            }
        }
        let given_back = owners.iter().cloned();
        let given_back = given_back.map(|owner| Member::Release { owner });
        let answers = carrier
            .carry(&given_back.collect::<Vec<_>>())
            .await
            .unwrap();
        for (number, (asked, done)) in owners.iter().zip(answers).enumerate() {
            match (number, session.released(asked, &done.unwrap())) {
                (7, released) => {
                    assert_eq!(released.unwrap(), Released::Held(owner(&theirs, 7)));
                }
                (9, released) => assert!(released.is_err(), "{released:?}"),
                (_, released) => assert_eq!(released.unwrap(), Released::Done),
            }
        }
    }
}
