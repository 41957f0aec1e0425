//! The fields of a lock record, as a store may hold them.
#![no_main]

#[path = "../../locker-core/tests/parsers/entry.rs"]
#[allow(dead_code, reason = "each target enters by one of its functions")]
mod entry;

libfuzzer_sys::fuzz_target!(|raw: (&str, &str, [i64; 4])| {
    let (key, owner, numbers) = raw;
    entry::record(key, owner, numbers);
    // An owner that was read names its key.
    if let Ok(parsed) = owner.parse::<locker_core::OwnerHash>() {
        entry::record(parsed.key().as_str(), owner, numbers);
    }
});
