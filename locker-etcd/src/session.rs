//! Round trips on one connection. All that changes locks goes through one function, which sends one
//! or many members as one transaction; so whoever gathers the operations of many tasks has one
//! place to hand them to.

use crate::connection::Connection;
use crate::error::{self, Request, from_client};
use crate::names::Names;
use crate::shared::Shared;
use etcd_client::{GetOptions, GetResponse, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use locker_core::BackendError;
use std::sync::Arc;

/// How many members one transaction may have. The server takes 128 operations, and as many comparisons;
/// a member compares up to five things and does up to three, in a transaction of its own, which has as
/// many left as the outer one did not use. Without transactions of their own,
/// they compare at most two things each, and claims two more that they have in common: 121.
pub(crate) const BATCH: usize = 60;

/// One connection, the names of its namespace, and what the locker's connections share.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) names: Names,
    pub(crate) shared: Arc<Shared>,
}

/// What one member of a transaction came to.
#[derive(Debug)]
pub(crate) struct Done {
    /// Whether its comparisons held.
    pub(crate) succeeded: bool,
    /// The answers of its operations, in their order.
    pub(crate) answers: Vec<TxnOpResponse>,
    /// The revision of the whole transaction: that of everything it wrote.
    pub(crate) revision: i64,
}

impl Session {
    /// One transaction.
    pub(crate) async fn transact(
        &self,
        member: Txn,
        request: Request,
    ) -> Result<Done, BackendError> {
        let mut done = self.transact_all(vec![member], request, false).await?;
        done.pop().ok_or_else(error::malformed)
    }

    /// One transaction that stands for so many members, each of which it does or none; `None` when it
    /// did nothing.
    pub(crate) async fn transact_as_a_whole(
        &self,
        members: Txn,
        count: usize,
    ) -> Result<Option<Vec<Done>>, BackendError> {
        let done = self.transact(members, Request::Write).await?;
        let one = || Done {
            succeeded: true,
            answers: Vec::new(),
            revision: done.revision,
        };
        Ok(done.succeeded.then(|| (0..count).map(|_| one()).collect()))
    }

    /// Many members, at most [`BATCH`], as one transaction of nested ones: each has its own
    /// comparisons and its own answer, and they stand in the order in which they were given. No two
    /// of them may write one key. `grows` says whether one of them puts something new.
    pub(crate) async fn transact_all(
        &self,
        members: Vec<Txn>,
        request: Request,
        grows: bool,
    ) -> Result<Vec<Done>, BackendError> {
        let count = members.len();
        let alone = count == 1;
        let whole = match <[Txn; 1]>::try_from(members) {
            Ok([only]) => only,
            Err(members) if members.is_empty() => return Ok(Vec::new()),
            Err(members) => self.together(members, grows),
        };
        let known = self.shared.known();
        let answer = self
            .connection
            .kv()
            .txn(whole)
            .await
            .map_err(|cause| from_client(cause, request))?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        self.shared.saw(known, revision)?;
        if alone {
            return Ok(vec![Done::of(&answer, revision)]);
        }
        let done: Vec<Done> = answer
            .op_responses()
            .into_iter()
            .filter_map(|member| match member {
                TxnOpResponse::Txn(member) => Some(Done::of(&member, revision)),
                _ => None,
            })
            .collect();
        if done.len() == count {
            Ok(done)
        } else {
            Err(error::malformed())
        }
    }

    /// One transaction of many.
    ///
    /// etcd does not count what nested transactions put against its quota. So that a full store
    /// refuses a batch as it refuses the members of it, one that grows names a put where etcd counts
    /// it, in the branch that is never taken: nothing is compared, so nothing fails.
    fn together(&self, members: Vec<Txn>, grows: bool) -> Txn {
        let nested: Vec<TxnOp> = members.into_iter().map(TxnOp::txn).collect();
        let never = grows.then(|| TxnOp::put(self.names.never(), "", None));
        Txn::new()
            .and_then(nested)
            .or_else(never.into_iter().collect::<Vec<_>>())
    }

    /// A linearizable read of a key, or of a range.
    pub(crate) async fn get(
        &self,
        key: impl Into<Vec<u8>>,
        options: Option<GetOptions>,
    ) -> Result<GetResponse, BackendError> {
        let known = self.shared.known();
        let answer = self
            .connection
            .kv()
            .get(key, options)
            .await
            .map_err(|cause| from_client(cause, Request::Read))?;
        // That the revision went back harms no reader: it is reported, and what was read is so.
        let _reported = self.shared.saw(known, revision_of(&answer));
        Ok(answer)
    }
}

/// The revision at which something was read.
pub(crate) fn revision_of(answer: &GetResponse) -> i64 {
    answer
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision)
}

impl Done {
    fn of(answer: &TxnResponse, revision: i64) -> Self {
        Self {
            succeeded: answer.succeeded(),
            answers: answer.op_responses(),
            revision,
        }
    }

    /// What the read in this place found.
    pub(crate) fn found(&self, place: usize) -> Result<&[KeyValue], BackendError> {
        match self.answers.get(place) {
            Some(TxnOpResponse::Get(answer)) => Ok(answer.kvs()),
            _ => Err(error::malformed()),
        }
    }

    /// How many the read in this place counted.
    pub(crate) fn counted(&self, place: usize) -> Result<i64, BackendError> {
        match self.answers.get(place) {
            Some(TxnOpResponse::Get(answer)) => Ok(answer.count()),
            _ => Err(error::malformed()),
        }
    }

    /// What the nested transaction in this place came to.
    pub(crate) fn nested(&self, place: usize) -> Result<Self, BackendError> {
        match self.answers.get(place) {
            Some(TxnOpResponse::Txn(answer)) => Ok(Self::of(answer, self.revision)),
            _ => Err(error::malformed()),
        }
    }
}
