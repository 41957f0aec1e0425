//! What holds for every text that somebody may give, or leave in a store: no panic, and what is read is
//! what was written. The fuzz targets of `fuzz/` enter here as well.

use locker_core::record::RawLock;
use locker_core::{Host, Key, LockData, OwnerHash, ProcessHash, Trace};

/// S8: an identity is parsed from the one text that it prints, and from no other.
pub(crate) fn identity(text: &str) {
    if let Ok(owner) = text.parse::<OwnerHash>() {
        assert_eq!(owner.as_str(), text);
        let again = OwnerHash::new(owner.key(), owner.process(), owner.seq(), owner.trace());
        assert_eq!(again, owner);
    }
    if let Ok(process) = text.parse::<ProcessHash>() {
        assert_eq!(process.as_str(), text);
        let again = ProcessHash::new(process.host(), process.pid(), process.nonce());
        assert_eq!(again, process);
    }
    // The three kinds of text obey one rule.
    let (Ok(key), Ok(host), Ok(trace)) = (Key::new(text), Host::new(text), Trace::new(text)) else {
        assert!(Key::new(text).is_err() && Host::new(text).is_err() && Trace::new(text).is_err());
        return;
    };
    let process = ProcessHash::new(&host, 1, 2);
    let owner = OwnerHash::new(&key, &process, 3, Some(&trace));
    let parsed: OwnerHash = owner.as_str().parse().expect("it was printed");
    assert_eq!(
        (parsed.key(), parsed.process(), parsed.trace()),
        (&key, &process, Some(&trace))
    );
    assert_eq!(parsed.process().host(), &host);
}

/// S11: what is no record of this key grants nothing to anybody; what is one, is its owner's.
pub(crate) fn record(key: &str, owner: &str, [format, token, at, extended]: [i64; 4]) {
    let raw = RawLock {
        key,
        format,
        owner,
        token,
        acquired_at: at,
        extended_at: extended,
    };
    match LockData::decode(raw) {
        Ok(data) => {
            assert_eq!(
                (data.owner.as_str(), data.owner.key().as_str()),
                (owner, key)
            );
            assert_eq!(i64::try_from(data.token.get()), Ok(token));
            assert!(format > 0 && token > 0 && at >= 0 && extended >= 0);
        }
        Err(corrupt) => assert!(!corrupt.to_string().is_empty()),
    }
}
