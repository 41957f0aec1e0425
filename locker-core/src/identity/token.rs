//! Fencing tokens.

use super::{InvalidIdentity, parse_canonical};
use crate::time::Timestamp;
use std::fmt;
use std::str::FromStr;

/// A fencing token: a number that only ever grows in the grant order of its key (S2).
///
/// Hand it to whatever the job writes to, and let that refuse a token smaller than the largest it
/// has seen: then even an owner that was paused between its last check and its write does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
pub struct Token(u64);

impl Token {
    /// The token with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a signed one, which is what the columns of most databases hold.
    ///
    /// Every store grants tokens below 2^63, so this is the same number. A greater one can only have
    /// been made by hand; it becomes `i64::MAX`.
    ///
    /// ```
    /// # use locker_core::Token;
    /// assert_eq!(Token::new(7).as_i64(), 7);
    /// ```
    pub const fn as_i64(self) -> i64 {
        if self.0 > i64::MAX.cast_unsigned() {
            i64::MAX
        } else {
            self.0.cast_signed()
        }
    }

    /// The token of the next grant, in every store but etcd:
    /// `max(last + 1, the store's wall clock in microseconds)`.
    ///
    /// The first half keeps tokens growing when the clock steps back; the second keeps them growing
    /// when the record of the last one is forgotten, which therefore may happen only when the clock
    /// has passed that token.
    #[must_use]
    pub fn next(last: Option<Self>, wall: Timestamp) -> Self {
        let after_last = last.map_or(0, |last| last.0.saturating_add(1));
        Self(after_last.max(wall.as_micros()))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Token {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        parse_canonical(text)
            .map(Self)
            .ok_or_else(|| InvalidIdentity::malformed("fencing token", "a decimal number", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_as_a_signed_number_keeps_its_order() {
        let greatest = i64::MAX.cast_unsigned();
        assert_eq!(Token::new(0).as_i64(), 0);
        assert_eq!(Token::new(greatest).as_i64(), i64::MAX);
        assert_eq!(Token::new(greatest + 1).as_i64(), i64::MAX);
        assert_eq!(Token::new(u64::MAX).as_i64(), i64::MAX);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_take_the_token_back() {
        let last = Token::next(None, Timestamp::from_micros(1_000));
        assert_eq!(last, Token::new(1_000));
        assert_eq!(
            Token::next(Some(last), Timestamp::from_micros(10)),
            Token::new(1_001)
        );
    }
}
