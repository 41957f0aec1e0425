//! The three free texts of the system: key, trace and host name. One rule for all of them, because
//! each of them ends up in every store.

use super::InvalidIdentity;
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The greatest length of a key, a trace or a host name, in bytes of UTF-8.
pub const MAX_TEXT_BYTES: usize = 512;

fn checked(what: &'static str, text: &str) -> Result<Arc<str>, InvalidIdentity> {
    if text.is_empty() {
        Err(InvalidIdentity::Empty { what })
    } else if text.len() > MAX_TEXT_BYTES {
        Err(InvalidIdentity::TooLong {
            what,
            bytes: text.len(),
        })
    } else if text.contains('\0') {
        Err(InvalidIdentity::Nul { what })
    } else {
        Ok(text.into())
    }
}

macro_rules! text_identity {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("A ", $what, " of 1 to 512 bytes without NUL; every other character is allowed.")]
            ///
            /// # Errors
            ///
            /// [`InvalidIdentity`] when the text is empty, too long, or contains NUL.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidIdentity> {
                checked($what, text.as_ref()).map(Self)
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidIdentity;
            fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidIdentity;
            fn try_from(text: &str) -> Result<Self, InvalidIdentity> {
                Self::new(text)
            }
        }

        impl TryFrom<&String> for $name {
            type Error = InvalidIdentity;
            fn try_from(text: &String) -> Result<Self, InvalidIdentity> {
                Self::new(text.as_str())
            }
        }

        impl TryFrom<&$name> for $name {
            type Error = InvalidIdentity;
            fn try_from(text: &$name) -> Result<Self, InvalidIdentity> {
                Ok(text.clone())
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidIdentity;
            fn try_from(text: String) -> Result<Self, InvalidIdentity> {
                Self::new(text)
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_identity! {
    /// The name of a lock.
    ///
    /// ```
    /// # use locker_core::Key;
    /// let key = Key::new("reports/nightly #1")?;
    /// assert_eq!(key.as_str(), "reports/nightly #1");
    /// assert!(Key::new("").is_err());
    /// # Ok::<(), locker_core::InvalidIdentity>(())
    /// ```
    Key, "key"
}

text_identity! {
    /// A note that an acquisition carries for people: a request id, a ticket, a user.
    Trace, "trace"
}

text_identity! {
    /// The name of the machine a process runs on.
    Host, "host name"
}
