//! Where everything lies in etcd, and under which lease.
//!
//! ```text
//! NAMESPACE/base                     what is added to a revision to make a token
//! NAMESPACE/process/PROCESS!         a living process, on the process's own lease
//! NAMESPACE/born/PROCESS!            that this name was used, on a lease that outlasts it
//! NAMESPACE/lock/KEY!mark            an operator wants the lock back, on the holder's lease
//! NAMESPACE/lock/KEY!owner           who holds the lock, on the holder's lease
//! NAMESPACE/wait/KEY!PROCESS!        who waits for the lock, on the waiter's lease
//! ```
//!
//! Names are percent-encoded byte by byte, `!` and `%` among what is escaped. So a `!` ends a name
//! for certain and no key is a prefix of another; what begins with the encoding of a prefix is what
//! begins with the prefix; and everything of a namespace lies between `NAMESPACE/` and
//! `NAMESPACE0`, which is what a role is granted.

use locker_core::{Key, ProcessHash};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

/// What is escaped in a name, besides everything that is not ASCII. What is left reads plainly.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'!')
    .add(b'"')
    .add(b'%')
    .add(b'\'')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'`');

/// In a namespace a slash is escaped as well: the first one ends it.
const ESCAPED_IN_NAMESPACE: &AsciiSet = &ESCAPED.add(b'/');

/// A range of keys: from the first, to before the second.
pub(crate) type Range = (Vec<u8>, Vec<u8>);

/// The names of one namespace.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    namespace: String,
}

/// What a key in the subtree of locks is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LockKey {
    /// The record of this lock.
    Owner(Key),
    /// The mark beside this lock.
    Mark(Key),
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Self {
        Self {
            namespace: utf8_percent_encode(namespace, ESCAPED_IN_NAMESPACE).to_string(),
        }
    }

    pub(crate) fn base(&self) -> Vec<u8> {
        format!("{}/base", self.namespace).into_bytes()
    }

    /// Where nothing is ever put.
    pub(crate) fn never(&self) -> Vec<u8> {
        format!("{}/never", self.namespace).into_bytes()
    }

    pub(crate) fn process(&self, process: &ProcessHash) -> Vec<u8> {
        self.named("process", process.as_str(), "")
    }

    pub(crate) fn born(&self, process: &ProcessHash) -> Vec<u8> {
        self.named("born", process.as_str(), "")
    }

    pub(crate) fn owner(&self, key: &Key) -> Vec<u8> {
        self.named("lock", key.as_str(), "owner")
    }

    pub(crate) fn mark(&self, key: &Key) -> Vec<u8> {
        self.named("lock", key.as_str(), "mark")
    }

    /// The record of a lock and its mark.
    pub(crate) fn lock(&self, key: &Key) -> Range {
        under(self.named("lock", key.as_str(), ""))
    }

    /// The records of all locks whose key begins with this, and their marks.
    pub(crate) fn locks(&self, prefix: &str) -> Range {
        let prefix = utf8_percent_encode(prefix, ESCAPED);
        under(format!("{}/lock/{prefix}", self.namespace).into_bytes())
    }

    pub(crate) fn processes(&self) -> Range {
        under(format!("{}/process/", self.namespace).into_bytes())
    }

    /// The enrolment of one process that waits.
    pub(crate) fn waiter(&self, key: &Key, process: &ProcessHash) -> Vec<u8> {
        let process = utf8_percent_encode(process.as_str(), ESCAPED);
        self.named("wait", key.as_str(), &format!("{process}!"))
    }

    /// The enrolments of a key.
    pub(crate) fn waiters(&self, key: &Key) -> Range {
        under(self.named("wait", key.as_str(), ""))
    }

    /// The lease of a process, which every connection of the process derives alike. Leases belong to
    /// the whole cluster, so the namespace counts as well as the random bits of the process. Two that
    /// met would be seen at the birth of the second, whose lease would be there already; it is then
    /// born under another name.
    pub(crate) fn lease(&self, process: &ProcessHash) -> i64 {
        // FNV-1a, and the last mixing of MurmurHash3, which leaves no bit behind.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in self.process(process) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        // Positive, and not zero, which means "no lease" to etcd.
        ((hash ^ (hash >> 33)) >> 1).max(1).cast_signed()
    }

    /// What a key in the subtree of locks is about; `None` when it is none of ours.
    pub(crate) fn parse_lock(&self, found: &[u8]) -> Option<LockKey> {
        let rest = found.strip_prefix(format!("{}/lock/", self.namespace).as_bytes())?;
        let end = rest.iter().position(|byte| *byte == b'!')?;
        let key = percent_decode(&rest[..end]).decode_utf8().ok()?;
        let key = Key::new(key).ok()?;
        match &rest[end + 1..] {
            b"owner" => Some(LockKey::Owner(key)),
            b"mark" => Some(LockKey::Mark(key)),
            _ => None,
        }
    }

    fn named(&self, kind: &str, name: &str, leaf: &str) -> Vec<u8> {
        let name = utf8_percent_encode(name, ESCAPED);
        format!("{}/{kind}/{name}!{leaf}", self.namespace).into_bytes()
    }
}

/// Everything that begins with this.
fn under(prefix: Vec<u8>) -> Range {
    let mut end = prefix.clone();
    // Names are ASCII, so the last byte has a successor.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (prefix, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use locker_core::Host;

    const HOSTILE: [&str; 14] = [
        "a",
        "a!",
        "a!owner",
        "a%21owner",
        "a/",
        "a//b",
        "ab",
        "ä",
        "日本語",
        " ",
        "\n",
        "%",
        "!",
        "\u{1F512}",
    ];

    fn all(names: &Names, process: &ProcessHash) -> Vec<Vec<u8>> {
        let mut all = vec![
            names.base(),
            names.never(),
            names.process(process),
            names.born(process),
        ];
        for text in HOSTILE {
            let key = Key::new(text).unwrap();
            all.extend([names.owner(&key), names.mark(&key)]);
            all.push(names.waiter(&key, process));
        }
        all
    }

    #[test]
    fn no_key_is_a_prefix_of_another() {
        let process = ProcessHash::new(&Host::new("web!1/a").unwrap(), 1, 7);
        let mut keys = Vec::new();
        for namespace in ["locker", "locker/lock/a", "lock", "a!b", "locker/"] {
            keys.extend(all(&Names::new(namespace), &process));
        }
        for one in &keys {
            for other in keys.iter().filter(|other| *other != one) {
                assert!(
                    !other.starts_with(one),
                    "{} begins with {}",
                    String::from_utf8_lossy(other),
                    String::from_utf8_lossy(one)
                );
            }
        }
    }

    #[test]
    fn a_lock_key_parses_to_what_it_was_made_of() {
        let names = Names::new("team/a");
        for text in HOSTILE {
            let key = Key::new(text).unwrap();
            assert_eq!(
                names.parse_lock(&names.owner(&key)),
                Some(LockKey::Owner(key.clone()))
            );
            assert_eq!(
                names.parse_lock(&names.mark(&key)),
                Some(LockKey::Mark(key))
            );
        }
        for foreign in [
            "",
            "team%2Fa/lock/x",
            "team%2Fa/lock/%FF!owner",
            "team%2Fa/lock/x!y",
        ] {
            assert_eq!(names.parse_lock(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn the_range_of_a_prefix_holds_exactly_the_keys_that_begin_with_it() {
        let names = Names::new("locker");
        for prefix in ["", "a", "a/", "a%", "ä", "!"] {
            let (from, to) = names.locks(prefix);
            for text in HOSTILE {
                let owner = names.owner(&Key::new(text).unwrap());
                let inside = owner >= from && owner < to;
                assert_eq!(
                    inside,
                    text.starts_with(prefix),
                    "{text:?} under {prefix:?}"
                );
            }
        }
    }

    #[test]
    fn a_lease_is_positive_and_of_one_process_of_one_namespace() {
        let host = Host::new("h").unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for namespace in ["locker", "other"] {
            let names = Names::new(namespace);
            for bit in 0..128 {
                let lease = names.lease(&ProcessHash::new(&host, 1, 1 << bit));
                assert!(lease > 0, "{lease} for bit {bit} in {namespace}");
                assert!(seen.insert(lease), "bit {bit} in {namespace} meets another");
            }
        }
    }

    /// It is how the connections of one process, and an operator, find its lease.
    #[test]
    fn a_lease_stays_what_it_is() {
        let process = ProcessHash::new(&Host::new("web-1").unwrap(), 4711, 99);
        assert_eq!(Names::new("locker").lease(&process), LEASE_OF_WEB_1);
    }

    const LEASE_OF_WEB_1: i64 = 6_802_027_316_302_479_168;
}
