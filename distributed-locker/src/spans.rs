//! The spans of `tracing` around what a caller asks for. The Reporter has none: a subscriber may
//! block, and it must not.
//!
//! A span that nobody wants is one comparison of levels: its fields are not even formatted.

use crate::acquire::Acquired;
use crate::error::AcquireError;
use locker_core::machine::release::Word;
use locker_core::{Key, OwnerHash, Token};
use std::error::Error;
use tracing::Span;
use tracing::field::{Empty, display};

/// The target of every span and event of this crate.
pub(crate) const TARGET: &str = "distributed_locker";

/// One acquisition, from its place in the line on. The last owner hash it asked with counts.
pub(crate) fn acquire(key: &Key) -> Span {
    tracing::debug_span!(target: TARGET, "acquire", %key, owner = Empty, token = Empty)
}

/// Notes in a span of [`acquire`] under which owner hash it asks.
pub(crate) fn asking(span: &Span, owner: &OwnerHash) {
    span.record("owner", display(owner));
}

/// Notes in a span of [`acquire`] what was granted.
pub(crate) fn granted(span: &Span, token: Token) {
    span.record("token", display(token));
}

/// Notes in a span of [`acquire`] what came of it.
pub(crate) fn acquired(span: &Span, acquired: &Result<Acquired, AcquireError>) {
    match acquired {
        Ok(Acquired::Guard(_)) => tracing::debug!(target: TARGET, parent: span, "granted"),
        Ok(Acquired::SomeoneElseHoldsLock(data)) => {
            tracing::debug!(target: TARGET, parent: span, holder = %data.owner, "refused");
        }
        Err(error) => {
            let error: &(dyn Error + 'static) = error;
            tracing::debug!(target: TARGET, parent: span, error, "not acquired");
        }
    }
}

/// A job under its lock. At `INFO`, because it is the context of what the job itself logs.
pub(crate) fn run(owner: &OwnerHash, token: Token) -> Span {
    tracing::info_span!(target: TARGET, "run", key = %owner.key(), %owner, %token)
}

/// One release by the caller.
pub(crate) fn release(owner: &OwnerHash, token: Token) -> Span {
    tracing::debug_span!(target: TARGET, "release", key = %owner.key(), %owner, %token)
}

/// Notes in a span of [`release`] what became of it.
pub(crate) fn released(span: &Span, word: &Word) {
    match word {
        Ok(found) => tracing::debug!(target: TARGET, parent: span, ?found, "released"),
        Err(error) => {
            let error: &(dyn Error + 'static) = error;
            tracing::debug!(target: TARGET, parent: span, error, "the release is not confirmed");
        }
    }
}
