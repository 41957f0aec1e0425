//! The one error of every store: what went wrong, and whether it may have had an effect.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// A request that the store did not answer, or refused.
///
/// It is one word in size. Its text never contains a secret, and never repeats its
/// [`source`](Error::source).
#[derive(Clone)]
pub struct BackendError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    effect: Effect,
    unanswered: bool,
    message: String,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What kind of failure it was; it decides whether asking again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store cannot be reached, or cannot serve now. Ask again.
    Unavailable,
    /// No answer came in time. Ask again.
    Timeout,
    /// The store works, and something else is in the way of this very request: another writer, a
    /// locked row, a slot that is being moved, one of the several sockets that a connection
    /// consists of, which is being replaced. Ask again; the connection is sound. Where the store has
    /// said nothing at all, the error is also [`unanswered`](BackendError::unanswered).
    Busy,
    /// The credentials or rights do not suffice. Asking again is useless.
    Denied,
    /// The store refuses this very request. Asking again is useless.
    Rejected,
    /// What the store holds for this key cannot be read. Only an operator can help.
    Corrupt,
    /// The configuration is wrong. Asking again is useless.
    Config,
}

impl ErrorKind {
    /// Whether the connection on which it happened is to be closed before the store is asked again.
    pub fn breaks_connection(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout)
    }

    /// Whether the same request may succeed later.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unavailable | Self::Timeout | Self::Busy => true,
            Self::Denied | Self::Rejected | Self::Corrupt | Self::Config => false,
        }
    }
}

/// Whether a failed request may have changed the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It certainly did nothing and never will.
    NotApplied,
    /// It may have taken effect, or may still do so.
    Unknown,
}

impl BackendError {
    /// A failure of this kind, with this effect. The message says what happened, in a sentence
    /// without a full stop.
    pub fn new(kind: ErrorKind, effect: Effect, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            effect,
            unanswered: false,
            message: message.into(),
            source: None,
        }))
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The same failure, of a request to which the store has said nothing.
    ///
    /// An error of a kind that leaves the connection open counts as an answer of the store's, and so
    /// as a sign that the connection lives. Say this of one that is none: where one of the several
    /// sockets of a connection broke under the request, or is silent while others are not. For the
    /// kinds that [break the connection](ErrorKind::breaks_connection) it changes nothing.
    ///
    /// ```
    /// # use locker_core::{BackendError, Effect, ErrorKind};
    /// let full = BackendError::new(ErrorKind::Busy, Effect::Unknown, "the store says: no space");
    /// assert!(!full.is_unanswered());
    /// let broke = BackendError::new(ErrorKind::Busy, Effect::Unknown, "one of three sockets broke");
    /// assert!(broke.unanswered().is_unanswered());
    /// ```
    #[must_use]
    pub fn unanswered(mut self) -> Self {
        self.0.unanswered = true;
        self
    }

    /// No answer came in time; the request may take effect all the same.
    pub fn timeout() -> Self {
        Self::new(
            ErrorKind::Timeout,
            Effect::Unknown,
            "the store did not answer within the request timeout",
        )
        .unanswered()
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the request may have changed the store.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Whether it says [of itself](Self::unanswered) that the store has said nothing.
    pub fn is_unanswered(&self) -> bool {
        self.0.unanswered
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendError")
            .field("kind", &self.0.kind)
            .field("effect", &self.0.effect)
            .field("unanswered", &self.0.unanswered)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl Error for BackendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
