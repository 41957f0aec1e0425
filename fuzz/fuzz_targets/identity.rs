//! Keys, process hashes and owner hashes.
#![no_main]

#[path = "../../locker-core/tests/parsers/entry.rs"]
#[allow(dead_code, reason = "each target enters by one of its functions")]
mod entry;

libfuzzer_sys::fuzz_target!(|text: &str| entry::identity(text));
