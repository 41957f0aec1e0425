//! The base of the tokens: `token = base + revision of the grant`.
//!
//! The revision of a cluster grows with every write, and begins again when the cluster is wiped or
//! restored. So that tokens do not, every process that is born looks whether `base + revision` has
//! fallen behind its wall clock, in microseconds, and then raises the base to close the gap; it is
//! never lowered, and every grant compares it. A cluster writes less than a million times in a
//! second, so a token never runs ahead of the wall clock of whoever raised the base; and a cluster
//! that lost its revisions, or its base with them, goes on above every token it gave before, as long
//! as the wall clocks of those who raise it agree (A6).
//!
//! Raising it refuses the claims that are under way, which ask again. So it is left alone while it is
//! hardly behind: nobody restores a snapshot that is younger than that.

use crate::error::{self, Request};
use crate::record::wall_micros;
use crate::session::{Session, revision_of};
use crate::shared::Base;
use etcd_client::{Compare, CompareOp, GetResponse, KeyValue, Txn, TxnOp};
use locker_core::BackendError;

/// By how much a token may be behind the wall clock, in microseconds.
const SLACK: i64 = 1_000_000;

impl Base {
    /// As it stands in the store.
    pub(crate) fn text(self) -> String {
        self.0.to_string()
    }

    /// As it was found.
    ///
    /// # Errors
    ///
    /// `Corrupt`: nobody can be granted anything in this namespace.
    pub(crate) fn decode(found: &[KeyValue]) -> Result<Option<Self>, BackendError> {
        let Some(kv) = found.first() else {
            return Ok(None);
        };
        let text = kv.value_str().ok();
        let number = text.and_then(|text| text.parse::<i64>().ok());
        number
            .filter(|number| *number >= 0 && text == Some(&*number.to_string()))
            .map(|number| Some(Self(number)))
            .ok_or_else(|| error::corrupt("the base of the tokens"))
    }
}

/// The base that a read has found.
pub(crate) fn found(answer: &GetResponse) -> Result<Option<Base>, BackendError> {
    Base::decode(answer.kvs())
}

/// A base that is to be put in the place of another.
#[derive(Debug)]
pub(crate) struct Raise {
    from: Option<Base>,
    to: Base,
}

impl Raise {
    /// What is to be done about a base that was read now.
    pub(crate) fn of(answer: &GetResponse) -> Result<Self, BackendError> {
        let from = found(answer)?;
        let wanted = wall_micros().saturating_sub(revision_of(answer)).max(0);
        let to = match from {
            Some(base) if base.0.saturating_add(SLACK) >= wanted => base,
            _ => Base(wanted),
        };
        Ok(Self { from, to })
    }

    /// The transaction that does it; it reads the base where somebody else has done it.
    pub(crate) fn txn(&self, session: &Session) -> Txn {
        let name = session.names.base();
        let unchanged = match self.from {
            None => Compare::version(&*name, CompareOp::Equal, 0),
            Some(from) => Compare::value(&*name, CompareOp::Equal, from.text()),
        };
        let put = if self.from == Some(self.to) {
            Vec::new()
        } else {
            vec![TxnOp::put(&*name, self.to.text(), None)]
        };
        Txn::new()
            .when([unchanged])
            .and_then(put)
            .or_else([TxnOp::get(name, None)])
    }

    /// The base that stands afterwards.
    pub(crate) fn done(&self, done: &crate::session::Done) -> Result<Option<Base>, BackendError> {
        if done.succeeded {
            Ok(Some(self.to))
        } else {
            Base::decode(done.found(0)?)
        }
    }
}

impl Session {
    /// Reads the base, raises it where it is behind, and answers what stands then.
    pub(crate) async fn raised_base(&self) -> Result<Base, BackendError> {
        let raise = Raise::of(&self.get(self.names.base(), None).await?)?;
        let done = self.transact(raise.txn(self), Request::Write).await?;
        let base = raise.done(&done)?;
        self.shared.learn_base(base);
        // Somebody deletes it while others put it: that passes.
        base.ok_or_else(|| error::unavailable("the base of the tokens is being changed"))
    }
}
