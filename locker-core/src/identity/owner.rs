//! The identity of one acquisition of one lock by one process.

use super::{InvalidIdentity, Key, ProcessHash, Trace, escape, parse_canonical};
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

/// The identity of one acquisition: `{key}@{process hash}.{seq}`, and `#{trace}` if it has one.
///
/// It carries its key and its process, so nothing that takes an owner hash can be called with the
/// key of another lock. An owner hash is used for one acquisition only; everything that is done
/// under it (create, extend, release, and any repetition of these) may be repeated without harm.
///
/// ```
/// # use locker_core::{Host, Key, OwnerHash, ProcessHash, Trace};
/// let process = ProcessHash::new(&Host::new("web-1")?, 4711, 99);
/// let owner = OwnerHash::new(&Key::new("a@b")?, &process, 7, Some(&Trace::new("ticket #5")?));
/// assert_eq!(owner.to_string(), "a%40b@web-1/4711.99.7#ticket #5");
/// assert_eq!(owner.to_string().parse::<OwnerHash>()?, owner);
/// # Ok::<(), locker_core::InvalidIdentity>(())
/// ```
#[derive(Clone)]
pub struct OwnerHash(Arc<Parts>);

struct Parts {
    text: String,
    key: Key,
    process: ProcessHash,
    seq: u64,
    trace: Option<Trace>,
}

impl OwnerHash {
    const WHAT: &'static str = "owner hash";
    const FORM: &'static str =
        "{key}@{host}/{pid}.{digits}.{seq}, and #{trace} if there is a trace";

    /// The `seq`-th acquisition of `process`, of the lock `key`.
    pub fn new(key: &Key, process: &ProcessHash, seq: u64, trace: Option<&Trace>) -> Self {
        let key_text = escape::escape(key.as_str());
        let trace_text = trace.map_or("", Trace::as_str);
        // Every acquisition makes one, so there is room from the start; numbers have 20 digits at most.
        let room = key_text.len() + process.as_str().len() + trace_text.len() + 23;
        let mut text = String::with_capacity(room);
        // Writing to a string cannot fail.
        let _ = write!(text, "{key_text}@{process}.{seq}");
        if trace.is_some() {
            // The trace is the tail and needs no escape: no raw `#` can stand before it.
            text.push('#');
            text.push_str(trace_text);
        }
        Self(Arc::new(Parts {
            text,
            key: key.clone(),
            process: process.clone(),
            seq,
            trace: trace.cloned(),
        }))
    }

    /// The lock that is owned.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// The incarnation that owns it.
    pub fn process(&self) -> &ProcessHash {
        &self.0.process
    }

    /// The number of the acquisition within that incarnation.
    pub fn seq(&self) -> u64 {
        self.0.seq
    }

    /// The caller's note, if it gave one.
    pub fn trace(&self) -> Option<&Trace> {
        self.0.trace.as_ref()
    }

    /// The textual form.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl FromStr for OwnerHash {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let parsed = (|| {
            let (head, trace) = match text.split_once('#') {
                Some((head, trace)) => (head, Some(Trace::new(trace).ok()?)),
                None => (text, None),
            };
            let (key, rest) = head.split_once('@')?;
            let (process, seq) = rest.rsplit_once('.')?;
            let key = Key::new(escape::unescape(key)?).ok()?;
            let process = process.parse().ok()?;
            Some(Self::new(
                &key,
                &process,
                parse_canonical(seq)?,
                trace.as_ref(),
            ))
        })();
        parsed.ok_or_else(|| InvalidIdentity::malformed(Self::WHAT, Self::FORM, text))
    }
}

impl TryFrom<&str> for OwnerHash {
    type Error = InvalidIdentity;

    fn try_from(text: &str) -> Result<Self, InvalidIdentity> {
        text.parse()
    }
}

impl TryFrom<&String> for OwnerHash {
    type Error = InvalidIdentity;

    fn try_from(text: &String) -> Result<Self, InvalidIdentity> {
        text.parse()
    }
}

impl TryFrom<String> for OwnerHash {
    type Error = InvalidIdentity;

    fn try_from(text: String) -> Result<Self, InvalidIdentity> {
        text.parse()
    }
}

impl TryFrom<&OwnerHash> for OwnerHash {
    type Error = InvalidIdentity;

    fn try_from(owner: &OwnerHash) -> Result<Self, InvalidIdentity> {
        Ok(owner.clone())
    }
}

impl PartialEq for OwnerHash {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Eq for OwnerHash {}

impl Hash for OwnerHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl fmt::Display for OwnerHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.text)
    }
}

impl fmt::Debug for OwnerHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0.text, f)
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(OwnerHash, ProcessHash);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Host, MAX_TEXT_BYTES};
    use proptest::prelude::*;

    /// Texts that lean towards the characters the grammar itself uses.
    fn hostile() -> impl Strategy<Value = String> {
        prop_oneof![
            "[@#%./0-9a]{1,24}",
            "\\PC{1,40}",
            "[\u{1}-\u{10ffff}]{1,60}"
        ]
        .prop_filter("within the limit", |s| {
            s.len() <= MAX_TEXT_BYTES && !s.contains('\0')
        })
    }

    proptest! {
        #[test]
        fn parsing_is_the_inverse_of_printing(
            key in hostile(), host in hostile(), trace in proptest::option::of(hostile()),
            pid in any::<u32>(), nonce in any::<u128>(), seq in any::<u64>(),
        ) {
            let key = Key::new(key).unwrap();
            let process = ProcessHash::new(&Host::new(host).unwrap(), pid, nonce);
            let trace = trace.map(|t| Trace::new(t).unwrap());
            let owner = OwnerHash::new(&key, &process, seq, trace.as_ref());
            let parsed: OwnerHash = owner.as_str().parse().unwrap();
            prop_assert_eq!(parsed.key(), &key);
            prop_assert_eq!(parsed.process(), &process);
            prop_assert_eq!(parsed.process().host(), process.host());
            prop_assert_eq!((parsed.process().pid(), parsed.process().nonce()), (pid, nonce));
            prop_assert_eq!(parsed.seq(), seq);
            prop_assert_eq!(parsed.trace(), trace.as_ref());
            prop_assert_eq!(parsed, owner);
        }

        #[test]
        fn printing_is_the_inverse_of_parsing(text in "[@#%./0-9a+]{1,30}") {
            if let Ok(owner) = text.parse::<OwnerHash>() {
                prop_assert_eq!(owner.as_str(), text);
            }
        }
    }

    /// Hazard CU-18: whoever chose the trace made the status query look at another key.
    #[test]
    fn a_trace_cannot_pretend_to_be_another_owner() {
        let owner: OwnerHash = "a@host/10.99.0#x@evil/9.9.9#y".parse().unwrap();
        assert_eq!(owner.key().as_str(), "a");
        assert_eq!(owner.process().as_str(), "host/10.99");
        assert_eq!(owner.trace().unwrap().as_str(), "x@evil/9.9.9#y");
    }

    #[test]
    fn texts_that_no_owner_prints_are_refused() {
        for text in [
            "",
            "k",
            "k@",
            "k@h/1.2",
            "k@h/1.2.",
            "@h/1.2.3",
            "k@/1.2.3",
            "k@h/01.2.3",
            "k@h/1.+2.3",
            "k@h/1.2.03",
            "k@h/1.2.3#",
            "k%41@h/1.2.3",
            "k%@h/1.2.3",
            "k@x@h/1.2.3",
            "k@h/1.2.3\0",
            "k@h/4294967296.2.3",
            "k@h/1.2.18446744073709551616",
        ] {
            assert!(
                text.parse::<OwnerHash>().is_err(),
                "{text:?} must not parse"
            );
        }
    }
}
