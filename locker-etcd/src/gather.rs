//! What several tasks ask of etcd while a transaction is in flight is one transaction: a commit costs a
//! write to the disks of a majority, and so much for one lock or for sixty.
//!
//! `locker-coalesce` decides what travels with what, and says why nothing is sent after its caller
//! left. A claim bears the terms under which it was made, however long it has waited: whoever has
//! settled its owner meanwhile has changed them, and it is refused.
//!
//! Almost always every lock that is claimed is free, and every one that is released is the owner's. So a
//! batch is first sent as a transaction that does all of it or nothing: the server looks up and reads
//! half of what it would otherwise. If that did nothing, the batch is sent as a transaction of nested
//! ones, and so are the next ones for a while. There a member has comparisons and an answer of its own,
//! and what becomes of one is nothing to the others. Between the two nothing happens that a single
//! transaction would have prevented: what the first one did not do, the second one judges anew.
//!
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
use std::sync::atomic::{AtomicU32, Ordering};

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
pub(crate) struct Transactions {
    session: Arc<Session>,
    /// How many of the next batches are sent as nested transactions at once.
    wary: AtomicU32,
}

/// How many batches are sent as nested transactions at once after one that was not done as a whole. Where
/// every batch has somebody who is refused, so many pay for one that is sent twice.
const WARY: u32 = 32;

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
    Gate::new(Transactions::new(Arc::clone(session)), LIMITS)
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
    fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            wary: AtomicU32::new(0),
        }
    }

    /// All of them as one transaction, or `None` if nothing was done.
    async fn at_once(&self, members: &[Member]) -> Result<Option<Vec<Done>>, BackendError> {
        let wary = |left: u32| left.checked_sub(1);
        let relaxed = Ordering::Relaxed;
        if self.wary.fetch_update(relaxed, relaxed, wary).is_ok() {
            return Ok(None);
        }
        let Some(whole) = at_once_txn(&self.session, members) else {
            return Ok(None);
        };
        let done = self.session.transact_at_once(whole, members.len()).await?;
        if done.is_none() {
            self.wary.store(WARY, relaxed);
        }
        Ok(done)
    }
}

/// The transaction that does all of this or nothing. There is none for take-overs, which are rare, nor
/// for claims under different terms, which are not so for long.
fn at_once_txn(session: &Session, members: &[Member]) -> Option<Txn> {
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
        let txn = member.txn(&self.session);
        self.session.transact(txn, Request::Write).await
    }

    async fn carry(
        &self,
        members: &[Member],
    ) -> Result<Vec<Result<Done, BackendError>>, BackendError> {
        if let Some(done) = self.at_once(members).await? {
            return Ok(done.into_iter().map(Ok).collect());
        }
        let session = &*self.session;
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
        Transactions::new(Arc::new(Session {
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
        let terms = carrier
            .session
            .terms(owner.process())
            .await
            .unwrap()
            .unwrap();
        let asked = Member::Create {
            owner: owner.clone(),
            terms,
        };
        let done = carrier.carry_one(&asked).await.unwrap();
        carrier.session.created(&owner, terms, &done).unwrap()
    }

    /// Attack 3: as many members as there may be, each with an answer of its own, whatever becomes
    /// of the others.
    #[tokio::test]
    async fn a_whole_batch_travels_as_one_transaction_and_is_answered_one_by_one() {
        let carrier = carrier().await;
        let session = &*carrier.session;
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

    fn creates(owners: &[OwnerHash], terms: Terms) -> Vec<Member> {
        let owners = owners.iter().cloned();
        owners
            .map(|owner| Member::Create { owner, terms })
            .collect()
    }

    /// A transaction that does all or nothing tells nothing of its members; nested ones tell of each.
    async fn was_done_at_once(carrier: &Transactions, members: &[Member]) -> bool {
        let done = carrier.carry(members).await.unwrap();
        assert_eq!(done.len(), members.len());
        done.iter()
            .all(|done| done.as_ref().unwrap().answers.is_empty())
    }

    #[tokio::test]
    async fn a_batch_is_done_at_once_until_somebody_in_it_is_refused() {
        let carrier = carrier().await;
        let session = &*carrier.session;
        let mine = ProcessHash::new(&Host::new("at-once").unwrap(), 1, 1);
        let long = Duration::from_secs(60);
        session.create_process(&mine, long).await.unwrap();
        let terms = session.terms(&mine).await.unwrap().unwrap();
        let owners: Vec<OwnerHash> = (100..100 + BATCH).map(|n| owner(&mine, n)).collect();
        let releases: Vec<Member> = owners
            .iter()
            .cloned()
            .map(|owner| Member::Release { owner })
            .collect();

        // As many comparisons as there can be: those of releases.
        assert!(was_done_at_once(&carrier, &creates(&owners, terms)).await);
        assert!(was_done_at_once(&carrier, &releases).await);
        // All in one: half of them are claimed, and the other half is released.
        let (first, second) = owners.split_at(BATCH / 2);
        assert!(was_done_at_once(&carrier, &creates(second, terms)).await);
        let mut mixed = creates(first, terms);
        mixed.extend_from_slice(&releases[BATCH / 2..]);
        assert!(was_done_at_once(&carrier, &mixed).await);

        // Half of these are released already.
        assert!(!was_done_at_once(&carrier, &releases).await);
        for _ in 0..WARY {
            assert!(!was_done_at_once(&carrier, &creates(first, terms)).await);
        }
        assert!(
            was_done_at_once(&carrier, &creates(second, terms)).await,
            "it is tried again"
        );
    }

    /// S7: claims that are gathered when their process settles take nothing, in whatever form they are
    /// sent.
    #[tokio::test]
    async fn a_batch_of_claims_that_were_settled_takes_nothing() {
        let carrier = carrier().await;
        let session = &*carrier.session;
        let mine = ProcessHash::new(&Host::new("settled").unwrap(), 1, 1);
        let long = Duration::from_secs(60);
        session.create_process(&mine, long).await.unwrap();
        let terms = session.terms(&mine).await.unwrap().unwrap();
        let owners: Vec<OwnerHash> = (200..203).map(|n| owner(&mine, n)).collect();
        let mut claims = creates(&owners, terms);
        session.settle(&owners[0]).await.unwrap();

        let done = carrier.carry(&claims).await.unwrap();
        for (owner, done) in owners.iter().zip(done) {
            let claimed = session.created(owner, terms, &done.unwrap()).unwrap();
            assert_eq!(claimed, Claimed::TooLate);
            assert_eq!(session.read_lock(owner.key()).await.unwrap(), None);
        }
        // Under different terms they are nobody's whole.
        let now = session.terms(&mine).await.unwrap().unwrap();
        claims.push(Member::Create {
            owner: owner(&mine, 203),
            terms: now,
        });
        assert!(at_once_txn(session, &claims).is_none());
    }
}
