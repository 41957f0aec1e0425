//! What is said to a caller whose operation the gate could not bring to an answer, and one error
//! told to many.

use locker_core::{BackendError, Effect, ErrorKind};
use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The tasks of the gate are gone, and the operation was never sent.
pub(crate) fn closed() -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        Effect::NotApplied,
        "the runtime that the connection belongs to has ended",
    )
}

/// The task of the gate went away while the operation was under way.
pub(crate) fn abandoned() -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        Effect::Unknown,
        "the connection was closed while the request was under way",
    )
}

/// The carrier panicked.
pub(crate) fn panicked() -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        Effect::Unknown,
        "the store's client has panicked",
    )
}

/// The carrier gave more or fewer answers than it was asked for. Which answer belongs to whom
/// cannot be known, and the connection may be out of step.
pub(crate) fn miscounted(asked: usize, answered: usize) -> BackendError {
    BackendError::new(
        ErrorKind::Unavailable,
        Effect::Unknown,
        format!("the store answered {answered} of {asked} operations of one batch"),
    )
}

/// Whether a batch that was refused like this is worth being sent again, apart.
pub(crate) fn blames_a_member(error: &BackendError) -> bool {
    error.effect() == Effect::NotApplied && !error.kind().breaks_connection()
}

/// One error for each of many.
pub(crate) struct Shared(Arc<BackendError>);

impl Shared {
    pub(crate) fn new(error: BackendError) -> Self {
        Self(Arc::new(error))
    }

    /// The same error: kind, effect, text and source.
    pub(crate) fn copy(&self) -> BackendError {
        let copy = BackendError::new(self.0.kind(), self.0.effect(), self.0.to_string());
        if self.0.source().is_some() {
            copy.with_source(Source(Arc::clone(&self.0)))
        } else {
            copy
        }
    }
}

/// The source of a shared error.
struct Source(Arc<BackendError>);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(source) => fmt::Display::fmt(source, f),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.source(), f)
    }
}

impl Error for Source {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()?.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_what_the_error_says_and_what_caused_it() {
        let cause = BackendError::new(ErrorKind::Timeout, Effect::Unknown, "the cause")
            .with_source(std::fmt::Error);
        let shared = Shared::new(
            BackendError::new(ErrorKind::Denied, Effect::NotApplied, "refused").with_source(cause),
        );
        for copy in [shared.copy(), shared.copy()] {
            assert_eq!(copy.kind(), ErrorKind::Denied);
            assert_eq!(copy.effect(), Effect::NotApplied);
            assert_eq!(copy.to_string(), "refused");
            let source = copy.source().unwrap();
            assert_eq!(source.to_string(), "the cause");
            assert_eq!(
                source.source().unwrap().to_string(),
                std::fmt::Error.to_string()
            );
        }
    }

    #[test]
    fn only_a_certain_refusal_over_a_sound_connection_blames_a_member() {
        for (kind, effect, blames) in [
            (ErrorKind::Rejected, Effect::NotApplied, true),
            (ErrorKind::Busy, Effect::NotApplied, true),
            (ErrorKind::Denied, Effect::NotApplied, true),
            (ErrorKind::Corrupt, Effect::NotApplied, true),
            (ErrorKind::Config, Effect::NotApplied, true),
            (ErrorKind::Unavailable, Effect::NotApplied, false),
            (ErrorKind::Timeout, Effect::NotApplied, false),
            (ErrorKind::Rejected, Effect::Unknown, false),
            (ErrorKind::Timeout, Effect::Unknown, false),
        ] {
            let error = BackendError::new(kind, effect, "");
            assert_eq!(blames_a_member(&error), blames, "{kind:?}, {effect:?}");
        }
    }
}
