//! What is said to a caller whose operation the gate could not bring to an answer.

use locker_core::{BackendError, Effect, ErrorKind};

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

#[cfg(test)]
mod tests {
    use super::*;

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
