//! Addresses of stores.
#![no_main]

#[path = "../../distributed-locker/tests/urls/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|input: (u8, &str, &str)| {
    let (scheme, middle, rest) = input;
    entry::address(rest);
    let schemes: Vec<&str> = distributed_locker::schemes().collect();
    let scheme = schemes[usize::from(scheme) % schemes.len()];
    entry::address(&format!("{scheme}://{rest}"));
    if scheme != "sqlite" {
        entry::with_password(scheme, middle, rest);
    }
});
