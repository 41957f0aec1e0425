//! Expectations that many cases share, with words for the author of the store.

use locker_core::backend::{Answer, Claimed, Held};
use locker_core::{Effect, ErrorKind, Token};
use std::fmt::Debug;

/// The claim must have been granted.
pub fn granted(claimed: Claimed, why: &str) -> Token {
    match claimed {
        Claimed::Granted(token) => token,
        other => panic!("the store should grant this claim ({why}), but answers {other:?}"),
    }
}

/// The claim must have been refused because somebody else holds the lock.
pub fn held(claimed: Claimed, why: &str) -> Held {
    match claimed {
        Claimed::Held(held) => held,
        other => panic!("the store should answer Held ({why}), but answers {other:?}"),
    }
}

/// There must have been no record.
pub fn absent(claimed: &Claimed, why: &str) {
    assert_eq!(
        *claimed,
        Claimed::Absent,
        "the store should answer Absent ({why})"
    );
}

/// The store must have refused to believe what it found, and have changed nothing (S11).
pub fn refused_as_corrupt<T: Debug>(answer: Answer<T>, what: &str) {
    match answer {
        Ok(reply) => panic!(
            "{what} finds something that is no record of this release: the store should answer \
             an error of kind Corrupt, but answers {:?}",
            reply.value
        ),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
            assert_eq!(error.effect(), Effect::NotApplied, "{what}: {error:?}");
        }
    }
}
