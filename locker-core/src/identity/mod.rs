//! Identities: the name of a lock, of a process, and of one acquisition.
//!
//! Every identity has one textual form, and parsing is the exact inverse of printing: for every
//! key, host and trace, `parse(print(x)) == x`, and for every text that parses,
//! `print(parse(t)) == t`. So a text found in a store names one owner and nobody else, whatever
//! characters its author chose.

mod escape;
mod owner;
mod process;
mod text;
mod token;

pub use owner::OwnerHash;
pub use process::ProcessHash;
pub use text::{Host, Key, MAX_TEXT_BYTES, Trace};
pub use token::Token;

/// Why a text is not the identity it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidIdentity {
    /// The text has no characters.
    #[error("the {what} is empty; give it at least one character")]
    Empty {
        /// Which identity was meant.
        what: &'static str,
    },
    /// The text is longer than [`MAX_TEXT_BYTES`].
    #[error("the {what} has {bytes} bytes; at most {MAX_TEXT_BYTES} are allowed")]
    TooLong {
        /// Which identity was meant.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The text contains the character NUL, which some stores cannot keep.
    #[error("the {what} contains a NUL character, which no store can keep; remove it")]
    Nul {
        /// Which identity was meant.
        what: &'static str,
    },
    /// The text does not have the form of this identity.
    #[error("{text:?} is not a {what}; its form is {form}")]
    Malformed {
        /// Which identity was meant.
        what: &'static str,
        /// The form it should have.
        form: &'static str,
        /// The text itself, cut to a readable length.
        text: String,
    },
}

impl InvalidIdentity {
    fn malformed(what: &'static str, form: &'static str, text: &str) -> Self {
        const SHOWN_CHARS: usize = 120;
        let text = text.chars().take(SHOWN_CHARS).collect();
        Self::Malformed { what, form, text }
    }
}

/// So that a key that was parsed before is accepted wherever a text is.
impl From<std::convert::Infallible> for InvalidIdentity {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Reads a decimal number in its one canonical form: no sign, no leading zero.
fn parse_canonical<T: std::str::FromStr>(text: &str) -> Option<T> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit())
        && !text.is_empty()
        && (text.len() == 1 || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}
