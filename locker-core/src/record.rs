//! What a store keeps: one record per lock and one per process.

use crate::identity::{InvalidIdentity, OwnerHash, ProcessHash, Token, Trace};
use crate::time::Timestamp;

/// The version of the record format that this release writes.
///
/// A record of a newer format is never taken over: it is answered as corrupt, because this release
/// cannot know what its owner was promised.
pub const RECORD_FORMAT: u32 = 1;

/// What a store keeps about a held lock.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LockData {
    /// The format of the record, at most [`RECORD_FORMAT`].
    pub format: u32,
    /// Who holds the lock. Its key, process and trace are read from here.
    pub owner: OwnerHash,
    /// The fencing token of the grant.
    pub token: Token,
    /// When it was granted, by a wall clock, for people only.
    pub acquired_at: Timestamp,
    /// When it was last extended, by a wall clock, for people only.
    pub extended_at: Timestamp,
}

impl LockData {
    /// A record as this release writes it.
    pub fn new(owner: OwnerHash, token: Token, at: Timestamp) -> Self {
        Self {
            format: RECORD_FORMAT,
            owner,
            token,
            acquired_at: at,
            extended_at: at,
        }
    }

    /// A record as a store holds it, field by field.
    ///
    /// # Errors
    ///
    /// [`CorruptRecord`] when this release did not write it and cannot read it. The record is not a
    /// grant to anybody, and nothing may be done to it but by an operator.
    pub fn decode(fields: RawLock<'_>) -> Result<Self, CorruptRecord> {
        let format: u32 = fields
            .format
            .try_into()
            .map_err(|_| CorruptRecord::Format)?;
        if format == 0 {
            return Err(CorruptRecord::Format);
        }
        if format > RECORD_FORMAT {
            return Err(CorruptRecord::Newer { format });
        }
        let owner: OwnerHash = fields.owner.parse()?;
        if owner.key().as_str() != fields.key {
            return Err(CorruptRecord::OtherKey {
                owner: owner.key().to_string(),
            });
        }
        let number = |field, value: i64| {
            u64::try_from(value).map_err(|_| CorruptRecord::Negative { field, value })
        };
        let token = match number("token", fields.token)? {
            0 => {
                return Err(CorruptRecord::Negative {
                    field: "token",
                    value: 0,
                });
            }
            token => Token::new(token),
        };
        let acquired_at = Timestamp::from_micros(number("acquired_at", fields.acquired_at)?);
        let extended_at = Timestamp::from_micros(number("extended_at", fields.extended_at)?);
        Ok(Self {
            format,
            owner,
            token,
            acquired_at,
            extended_at,
        })
    }

    /// The incarnation that holds the lock.
    pub fn process(&self) -> &ProcessHash {
        self.owner.process()
    }

    /// The owner's note, if it gave one.
    pub fn trace(&self) -> Option<&Trace> {
        self.owner.trace()
    }
}

/// The fields of a lock record as a store keeps them, before anything about them is believed.
#[derive(Debug, Clone, Copy)]
pub struct RawLock<'a> {
    /// The key under which the record was found.
    pub key: &'a str,
    /// Format version.
    pub format: i64,
    /// Owner hash.
    pub owner: &'a str,
    /// Fencing token.
    pub token: i64,
    /// Microseconds since the Unix epoch.
    pub acquired_at: i64,
    /// Microseconds since the Unix epoch.
    pub extended_at: i64,
}

/// What a store keeps about a living process. That it is there and unexpired means "alive".
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ProcessData {
    /// Which incarnation.
    pub process: ProcessHash,
    /// When it last reported, by a wall clock, for people only.
    pub alive_at: Timestamp,
}

/// Why bytes found in a store are not a record (S11).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorruptRecord {
    /// Written by a newer release.
    #[error("the record has format {format}; this release reads up to {RECORD_FORMAT}")]
    Newer {
        /// The format found.
        format: u32,
    },
    /// The format is not a version number.
    #[error("the record's format is not a version number")]
    Format,
    /// An identity in it does not parse.
    #[error("an identity in the record is malformed")]
    Identity(#[from] InvalidIdentity),
    /// The record names the owner of another lock.
    #[error("the record names an owner of the key {owner:?}")]
    OtherKey {
        /// The key that the owner hash names.
        owner: String,
    },
    /// A number that must be positive is not.
    #[error("the field {field} is {value}")]
    Negative {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: i64,
    },
}
