//! What holds for every address of a store, whatever it says: no panic, and no password in anything that
//! may be printed. The fuzz target of `fuzz/` enters here as well.

use std::error::Error;

/// Reads an address, and prints what came of it.
pub(crate) fn address(url: &str) -> String {
    match distributed_locker::connect(url) {
        Ok(store) => format!("{store:?}"),
        Err(error) => {
            let mut said = vec![format!("{error} {error:?}")];
            let mut cause = error.source();
            while let Some(error) = cause {
                said.push(format!("{error} {error:?}"));
                cause = error.source();
            }
            said.join(" ")
        }
    }
}

/// An address with a password, of which `middle` is the part that somebody may have forgotten to
/// escape. Nothing of it is ever printed.
pub(crate) fn with_password(scheme: &str, middle: &str, rest: &str) {
    const HALVES: [&str; 2] = ["upperhalf", "lowerhalf"];
    let lower = [middle, rest].map(str::to_lowercase);
    if lower
        .iter()
        .any(|text| HALVES.iter().any(|half| text.contains(half)))
    {
        return;
    }
    let [upper, lower] = HALVES;
    let said = address(&format!("{scheme}://user:{upper}{middle}{lower}@{rest}"));
    let said = said.to_lowercase();
    assert!(
        !HALVES.iter().any(|half| said.contains(half)),
        "{scheme} with {middle:?} and {rest:?}: {said}"
    );
}
