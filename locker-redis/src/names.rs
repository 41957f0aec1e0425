//! The names of keys and channels.
//!
//! | what | name |
//! | --- | --- |
//! | a lock | `NS:{KEY}`, with `%` and `}` of the key percent-encoded |
//! | a process | `NS:process:HASH`, with `%`, `:`, `{` and `}` of the hash percent-encoded |
//! | a mailbox | `NS:mail:ID`, and on a cluster `NS:{KEY}:mail:ID` |
//!
//! The braces make the whole key the hash tag: the first `{` is the one after the namespace, which
//! has none, and the first `}` after it is the last, because the key has none. Ordinary keys read
//! plainly. The name of a process has no tag and no colon after its beginning, so it is never the
//! name of a lock, nor that of a process of another namespace.

use crate::error;
use locker_core::{BackendError, Key, ProcessHash};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::fmt::Write;

/// The greatest length of a namespace, in bytes.
const MAX_NAMESPACE: usize = 64;

/// The names of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    namespace: String,
    processes: String,
    mailboxes: String,
}

impl Names {
    /// # Errors
    ///
    /// Of kind `Config` for a namespace that would make names ambiguous.
    pub(crate) fn new(namespace: &str) -> Result<Self, BackendError> {
        let length = 1..=MAX_NAMESPACE;
        if !length.contains(&namespace.len()) || namespace.contains(['\0', '{', '}']) {
            return Err(error::config(
                "a namespace has 1 to 64 bytes, without NUL and braces",
            ));
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            processes: format!("{namespace}:process:"),
            mailboxes: format!("{namespace}:mail:"),
        })
    }

    pub(crate) fn lock(&self, key: &Key) -> String {
        let key = encode(key.as_str(), &['%', '}']);
        [&self.namespace, ":{", &key, "}"].concat()
    }

    pub(crate) fn process(&self, process: &ProcessHash) -> String {
        [&self.processes, &*tail(process)].concat()
    }

    /// What every process key begins with.
    pub(crate) fn processes(&self) -> &str {
        &self.processes
    }

    /// What every mailbox begins with that is not beside its lock.
    pub(crate) fn mailboxes(&self) -> &str {
        &self.mailboxes
    }

    /// The pattern of the locks whose keys begin with `prefix`, in the language of SCAN.
    pub(crate) fn lock_pattern(&self, prefix: &str) -> String {
        let begin = format!("{}:{{{}", self.namespace, encode(prefix, &['%', '}']));
        format!("{}*", literally(&begin))
    }

    /// The pattern of all processes.
    pub(crate) fn process_pattern(&self) -> String {
        format!("{}*", literally(&self.processes))
    }

    /// The key of a lock, if this is the name of one.
    pub(crate) fn key_of(&self, name: &str) -> Option<Key> {
        let rest = name.strip_prefix(self.namespace.as_str())?;
        let encoded = rest.strip_prefix(":{")?.strip_suffix('}')?;
        let key = Key::new(percent_decode_str(encoded).decode_utf8().ok()?).ok()?;
        // Only the one spelling that this store writes.
        (self.lock(&key) == name).then_some(key)
    }

    /// The process, if this is the name of one.
    pub(crate) fn process_of(&self, name: &str) -> Option<ProcessHash> {
        let encoded = name.strip_prefix(self.processes.as_str())?;
        let hash = percent_decode_str(encoded).decode_utf8().ok()?;
        let hash: ProcessHash = hash.parse().ok()?;
        (self.process(&hash) == name).then_some(hash)
    }
}

/// What the name of a process key ends with. The script makes the same of an owner hash.
pub(crate) fn tail(process: &ProcessHash) -> Cow<'_, str> {
    encode(process.as_str(), &['%', ':', '{', '}'])
}

/// The channel of a mailbox beside its lock, in the slot of the lock.
pub(crate) fn sharded_channel(lock: &str, mailbox: &str) -> String {
    format!("{lock}:mail:{mailbox}")
}

fn encode<'t>(text: &'t str, characters: &[char]) -> Cow<'t, str> {
    if !text.contains(characters) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if characters.contains(&c) {
            // They are all ASCII, and writing to a string cannot fail.
            let _ = write!(encoded, "%{:02X}", u32::from(c));
        } else {
            encoded.push(c);
        }
    }
    Cow::Owned(encoded)
}

/// A text that stands for itself in a pattern.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use locker_core::Host;

    fn names(namespace: &str) -> Names {
        Names::new(namespace).unwrap()
    }

    #[test]
    fn ordinary_names_read_plainly() {
        let names = names("locker");
        let key = Key::new("reports/nightly #1").unwrap();
        assert_eq!(names.lock(&key), "locker:{reports/nightly #1}");
        let process = ProcessHash::new(&Host::new("web-1").unwrap(), 4711, 99);
        assert_eq!(names.process(&process), "locker:process:web-1/4711.99");
    }

    #[test]
    fn every_key_is_its_own_hash_tag_and_is_read_back() {
        let names = names("a:b");
        for text in ["{}", "}", "{a}b", "a{", "%7D", "%", "a:process:b", "ä{}\n"] {
            let key = Key::new(text).unwrap();
            let name = names.lock(&key);
            let (before, rest) = name.split_once('{').unwrap();
            let (tag, after) = rest.split_once('}').unwrap();
            assert_eq!((before, after), ("a:b:", ""), "{text:?}");
            assert!(!tag.is_empty());
            assert_eq!(names.key_of(&name), Some(key), "{text:?}");
        }
    }

    #[test]
    fn names_of_processes_are_nobody_elses() {
        let process = ProcessHash::new(&Host::new("process:{h}%").unwrap(), 1, 2);
        let inner = names("ns:process");
        let outer = names("ns");
        for names in [&inner, &outer] {
            let name = names.process(&process);
            assert!(!name.contains(['{', '}']), "{name}");
            assert_eq!(names.process_of(&name).as_ref(), Some(&process));
            assert_eq!(names.key_of(&name), None);
        }
        assert_eq!(outer.process_of(&inner.process(&process)), None);
        let key = Key::new("k").unwrap();
        assert_eq!(outer.process_of(&inner.lock(&key)), None);
    }

    #[test]
    fn foreign_spellings_are_no_names() {
        let names = names("ns");
        for name in [
            "ns:{%61}",
            "ns:{a",
            "ns:a}",
            "ns:{}",
            "ns:{a}b}",
            "other:{a}",
            "ns:{%7d}",
        ] {
            assert_eq!(names.key_of(name), None, "{name}");
        }
        assert_eq!(names.process_of("ns:process:h"), None);
    }

    #[test]
    fn a_pattern_stands_for_its_text() {
        assert_eq!(
            names("n*s").lock_pattern("a?[b]\\%"),
            "n\\*s:{a\\?\\[b\\]\\\\%25*"
        );
    }

    #[test]
    fn namespaces_that_would_be_ambiguous_are_refused() {
        for namespace in ["", "a{", "}", "\0", &"x".repeat(65)] {
            assert!(Names::new(namespace).is_err(), "{namespace:?}");
        }
    }
}
