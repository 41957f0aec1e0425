//! The transactions on locks: claims, releases, marks, looks; and what their answers mean.
//!
//! A record is written once, at its grant, and never again: its revision is half of its token. It
//! hangs on the lease of its process, so it goes with the process and is prolonged with it.

use crate::error::{self, Request};
use crate::record::{self, Lock, decode_lock, decode_process, is_of};
use crate::session::{Done, Session};
use crate::shared::{Base, Own};
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp};
use locker_core::backend::{Claimed, Held, Liveness, Observed, Released, Settlement, Standing};
use locker_core::{BackendError, Key, OwnerHash, Token};

/// What a claim takes for granted, and compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) own: Own,
    pub(crate) base: Base,
}

impl Session {
    /// Creates the record if there is none, under these terms.
    pub(crate) fn create_txn(&self, owner: &OwnerHash, terms: Terms) -> Txn {
        let name = self.names.owner(owner.key());
        let mut when = vec![Compare::create_revision(name, CompareOp::Equal, 0)];
        when.extend(self.hold(owner, terms));
        Txn::new()
            .when(when)
            .and_then([self.put(owner, terms)])
            .or_else(self.look_around(owner))
    }

    /// What came of that member.
    pub(crate) fn created(
        &self,
        owner: &OwnerHash,
        terms: Terms,
        done: &Done,
    ) -> Result<Claimed, BackendError> {
        if done.succeeded {
            return granted(terms, done);
        }
        match self.refused(owner, done)? {
            Refused::Otherwise(claimed) => Ok(claimed),
            Refused::By(lock) => Ok(Claimed::Held(lock.held(Some(Liveness::Unknown)))),
            // The lock is free; what the claim took for granted is not so any more.
            Refused::Free => Ok(Claimed::TooLate),
        }
    }

    /// Replaces the record of a dead process: the very record that was observed, while that
    /// process's own record is gone.
    pub(crate) fn take_over_txn(
        &self,
        owner: &OwnerHash,
        observed: &Observed,
        terms: Terms,
    ) -> Txn {
        let name = self.names.owner(owner.key());
        let mut around = self.look_around(owner);
        let Some((revision, holder)) = record::parse_observed(observed) else {
            // What no store ever said is nobody's record.
            let never = Compare::version(name, CompareOp::Less, 0);
            return Txn::new().when([never]).or_else(around);
        };
        let process = self.names.process(holder.process());
        let mut when = vec![
            Compare::mod_revision(&*name, CompareOp::Equal, revision),
            Compare::version(&*process, CompareOp::Equal, 0),
        ];
        // Whose process that is stands in the record itself, whatever the caller says.
        when.extend(is_of(&holder, &name));
        when.extend(self.hold(owner, terms));
        around.push(TxnOp::get(process, None));
        Txn::new()
            .when(when)
            .and_then([
                self.put(owner, terms),
                TxnOp::delete(self.names.mark(owner.key()), None),
            ])
            .or_else(around)
    }

    /// What came of that member.
    pub(crate) fn took_over(
        &self,
        owner: &OwnerHash,
        observed: &Observed,
        terms: Terms,
        done: &Done,
    ) -> Result<Claimed, BackendError> {
        if done.succeeded {
            return granted(terms, done);
        }
        let lock = match self.refused(owner, done)? {
            Refused::Otherwise(claimed) => return Ok(claimed),
            Refused::Free => return Ok(Claimed::Absent),
            Refused::By(lock) => lock,
        };
        let judged = match record::parse_observed(observed) {
            Some((revision, holder)) if holder == lock.data.owner => {
                match decode_process(done.found(LOOKED)?)? {
                    None if revision == lock.revision => return Ok(Claimed::TooLate),
                    None => Liveness::Dead,
                    Some(process) => Liveness::Alive(process.data),
                }
            }
            _ => Liveness::Unknown,
        };
        Ok(Claimed::Held(lock.held(Some(judged))))
    }

    /// Deletes the record, and its mark, if it is this owner's.
    pub(crate) fn release_txn(&self, owner: &OwnerHash) -> Txn {
        Txn::new()
            .when(is_of(owner, &self.names.owner(owner.key())))
            .and_then([self.delete(owner.key())])
            .or_else([self.look(owner.key())])
    }

    /// Does all of these or nothing: claims of free locks by one process under the same terms, and
    /// releases. Whether it was done is all that it tells.
    pub(crate) fn all_or_nothing_txn(
        &self,
        claims: Option<(&[&OwnerHash], Terms)>,
        releases: &[&OwnerHash],
    ) -> Txn {
        let (mut when, mut then) = (Vec::new(), Vec::new());
        if let Some((owners, terms)) = claims {
            when.extend(
                owners
                    .first()
                    .iter()
                    .flat_map(|owner| self.hold(owner, terms)),
            );
            for owner in owners {
                let name = self.names.owner(owner.key());
                when.push(Compare::create_revision(name, CompareOp::Equal, 0));
                then.push(self.put(owner, terms));
            }
        }
        for owner in releases {
            when.extend(is_of(owner, &self.names.owner(owner.key())));
            then.push(self.delete(owner.key()));
        }
        Txn::new().when(when).and_then(then)
    }

    /// What came of that member.
    pub(crate) fn released(
        &self,
        owner: &OwnerHash,
        done: &Done,
    ) -> Result<Released, BackendError> {
        if done.succeeded {
            return Ok(Released::Done);
        }
        Ok(match self.lock(owner.key(), done.found(0)?)? {
            None => Released::Absent,
            // It names this owner, but not as this release writes it.
            Some(lock) if lock.data.owner == *owner => {
                return Err(error::corrupt(format!(
                    "the record of the lock {:?}",
                    owner.key().as_str()
                )));
            }
            Some(lock) => Released::Held(lock.data.owner),
        })
    }

    /// Refuses every claim of the owner's process that is under way, and releases what one of them
    /// may have written, in one step.
    ///
    /// A claim compares the revision of its own process's record. Writing that record again, with
    /// the same value under the same lease, changes the revision: what comes later is refused, and
    /// what came earlier is seen by the release behind it. Where the record is gone, no claim can
    /// take effect any more.
    pub(crate) async fn settle(&self, owner: &OwnerHash) -> Result<Settlement, BackendError> {
        self.shared.settle(owner);
        let process = self.names.process(owner.process());
        let again = PutOptions::new().with_ignore_value().with_ignore_lease();
        let settle = Txn::new()
            .when([Compare::version(&*process, CompareOp::Greater, 0)])
            .and_then([
                TxnOp::txn(self.release_txn(owner)),
                TxnOp::put(&*process, "", Some(again)),
                TxnOp::get(process, None),
            ])
            .or_else([TxnOp::txn(self.release_txn(owner))]);
        let done = match self.transact(settle, Request::Write).await {
            // etcd takes no more data, but it deletes. A claim that is under way is refused as long
            // as that is so, and may land afterwards.
            Err(error) if error::is_full(&error) => {
                let done = self
                    .transact(self.release_txn(owner), Request::Write)
                    .await?;
                return self.released(owner, &done).map(Settlement::Open);
            }
            done => done?,
        };
        let released = self.released(owner, &done.nested(0)?)?;
        let own = if done.succeeded {
            decode_process(done.found(2)?)?
        } else {
            None
        };
        let own = own.map(|process| process.own());
        self.shared.learn_own(owner.process(), own);
        Ok(Settlement::Final(released))
    }

    /// Puts an operator's mark beside the record, if it is this owner's.
    pub(crate) async fn mark(&self, owner: &OwnerHash) -> Result<Released, BackendError> {
        let lease = PutOptions::new().with_lease(self.names.lease(owner.process()));
        let mark = TxnOp::put(self.names.mark(owner.key()), owner.as_str(), Some(lease));
        let marked = Txn::new()
            .when(is_of(owner, &self.names.owner(owner.key())))
            .and_then([mark])
            .or_else([self.look(owner.key())]);
        let done = self.transact(marked, Request::Write).await?;
        self.released(owner, &done)
    }

    /// How these locks stand; at most [`BATCH`](crate::session::BATCH) in one round trip.
    pub(crate) async fn standings(
        &self,
        owners: &[OwnerHash],
    ) -> Result<Vec<Result<Standing, BackendError>>, BackendError> {
        let looks = owners
            .iter()
            .map(|owner| Txn::new().and_then([self.look(owner.key())]))
            .collect();
        let done = self.transact_all(looks, Request::Read, false).await?;
        let standing = |(owner, done): (&OwnerHash, &Done)| {
            Ok(match self.lock(owner.key(), done.found(0)?)? {
                None => Standing::Absent,
                Some(lock) if lock.data.owner != *owner => Standing::Held(lock.data.owner),
                Some(lock) if lock.marked => Standing::Marked,
                Some(_) => Standing::Mine,
            })
        };
        Ok(owners.iter().zip(&done).map(standing).collect())
    }

    pub(crate) async fn read_lock(&self, key: &Key) -> Result<Option<Held>, BackendError> {
        let (from, to) = self.names.lock(key);
        let found = self
            .get(from, Some(GetOptions::new().with_range(to)))
            .await?;
        let lock = self.lock(key, found.kvs())?;
        Ok(lock.map(|lock| lock.held(Some(Liveness::Unknown))))
    }

    /// The comparisons of every claim: the own process is as it was, and so is the base.
    fn hold(&self, owner: &OwnerHash, terms: Terms) -> [Compare; 2] {
        let process = self.names.process(owner.process());
        [
            Compare::mod_revision(process, CompareOp::Equal, terms.own.generation),
            Compare::value(self.names.base(), CompareOp::Equal, terms.base.text()),
        ]
    }

    fn put(&self, owner: &OwnerHash, terms: Terms) -> TxnOp {
        let value = record::lock_value(owner, terms.base.0, terms.own.ttl);
        let lease = PutOptions::new().with_lease(self.names.lease(owner.process()));
        TxnOp::put(self.names.owner(owner.key()), value, Some(lease))
    }

    /// Deletes the record of a lock and its mark.
    fn delete(&self, key: &Key) -> TxnOp {
        let (from, to) = self.names.lock(key);
        TxnOp::delete(from, Some(DeleteOptions::new().with_range(to)))
    }

    /// The record of a lock and its mark.
    fn look(&self, key: &Key) -> TxnOp {
        let (from, to) = self.names.lock(key);
        TxnOp::get(from, Some(GetOptions::new().with_range(to)))
    }

    /// Everything that can refuse a claim.
    fn look_around(&self, owner: &OwnerHash) -> Vec<TxnOp> {
        vec![
            self.look(owner.key()),
            TxnOp::get(self.names.process(owner.process()), None),
            TxnOp::get(self.names.base(), None),
        ]
    }

    /// Why a claim was refused. What it had taken for granted is learned anew.
    fn refused(&self, owner: &OwnerHash, done: &Done) -> Result<Refused, BackendError> {
        let lock = self.lock(owner.key(), done.found(0)?)?;
        let own = decode_process(done.found(1)?)?.map(|process| process.own());
        self.shared.learn_own(owner.process(), own);
        self.shared.learn_base(Base::decode(done.found(2)?)?);
        Ok(match lock {
            _ if own.is_none() => Refused::Otherwise(Claimed::OwnerDead),
            None => Refused::Free,
            Some(lock) if lock.data.owner == *owner => {
                Refused::Otherwise(Claimed::Granted(lock.data.token))
            }
            Some(lock) => Refused::By(lock),
        })
    }

    fn lock(
        &self,
        key: &Key,
        found: &[etcd_client::KeyValue],
    ) -> Result<Option<Lock>, BackendError> {
        decode_lock(&self.names, key, found)
    }
}

/// Where a take-over looks at its victim's process, behind what every claim looks at.
const LOOKED: usize = 3;

/// Why a claim was refused.
enum Refused {
    /// With this answer.
    Otherwise(Claimed),
    /// Somebody else holds the lock.
    By(Lock),
    /// There is no record.
    Free,
}

fn granted(terms: Terms, done: &Done) -> Result<Claimed, BackendError> {
    let token = terms.base.0.checked_add(done.revision);
    let token = token.and_then(|token| u64::try_from(token).ok());
    token
        .map(|token| Claimed::Granted(Token::new(token)))
        .ok_or_else(error::malformed)
}
