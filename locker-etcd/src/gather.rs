//! What several tasks ask of etcd while a transaction is in flight is one transaction: a commit costs a
//! write to the disks of a majority, and so much for one lock or for sixty.
//!
//! `locker-coalesce` decides what travels with what, and says why nothing is sent after its caller
//! left. A claim bears the terms under which it was made, however long it has waited: whoever has
//! settled its owner meanwhile has changed them, and it is refused.
//!
//! Almost always every lock that is claimed is free, and every one that is released is the owner's. So a
//! batch is first sent as a whole: one transaction that does all of it or nothing, in which the server
//! looks up and reads half of what it would otherwise. If that did nothing, the batch is sent as a
//! transaction of nested ones, and so are the next ones until things are calm again
//! ([`batch_went`](crate::shared::Shared::batch_went)). There a member has comparisons and an answer of
//! its own, and what becomes of one is nothing to the others. As the first transaction did nothing, it is
//! as if the batch had left later by a round trip; also to a caller who has left in between, and whose
//! owner may be settled by now.
//!
//! What is refused as a whole for good is judged by the gate: sent again apart where a member may be to
//! blame (a key that the user may not write), told to everybody where none is.
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

impl Transactions {
    /// All of them as one transaction, or `None` if nothing was done.
    async fn as_a_whole(&self, members: &[Member]) -> Result<Option<Vec<Done>>, BackendError> {
        let session = &*self.0;
        if !session.shared.trusts_batches() {
            return Ok(None);
        }
        let Some(whole) = whole_txn(session, members) else {
            return Ok(None);
        };
        match session.transact_as_a_whole(whole, members.len()).await {
            // A server may be told to take fewer comparisons than there are here, and as many nested
            // transactions.
            Err(error) if error.kind() == ErrorKind::Rejected => {
                session.shared.batch_went(false);
                Ok(None)
            }
            done => done,
        }
    }
}

/// The transaction that does all of this or nothing. There is none for take-overs, which are rare, nor
/// for claims under different terms, which are not so for long.
fn whole_txn(session: &Session, members: &[Member]) -> Option<Txn> {
    let (mut claims, mut releases) = (Vec::new(), Vec::new());
    let mut common = None;
    for member in members {
        match member {
            Member::TakeOver { .. } => return None,
            Member::Release { owner } => releases.push(owner),
            Member::Create { owner, terms } => {
                let under = (owner.process(), *terms);
                if *common.get_or_insert(under) != under {
                    return None;
                }
                claims.push(owner);
            }
        }
    }
    let claims = common.map(|(_, terms)| (&*claims, terms));
    Some(session.all_or_nothing_txn(claims, &releases))
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
        if let Some(done) = self.as_a_whole(members).await? {
            return Ok(done.into_iter().map(Ok).collect());
        }
        let session = &*self.0;
        let grows = members.iter().any(Member::grows);
        let txns = members.iter().map(|member| member.txn(session)).collect();
        let done = session.transact_all(txns, Request::Write, grows).await?;
        let nobody_refused = done.iter().all(|member| member.succeeded);
        session.shared.batch_went(nobody_refused);
        Ok(done.into_iter().map(Ok).collect())
    }

    /// Too many proposals are waiting for the disks of a majority.
    fn is_overload(error: &BackendError) -> bool {
        error.kind() == ErrorKind::Busy
    }
}

#[cfg(test)]
mod tests;
