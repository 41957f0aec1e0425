//! The cancellation sweep on one member, in real time.

mod fixture;

use fixture::EtcdFixture;
use locker_testkit::cancellation::sweep;

/// F25, S7, L8. `--nocapture` shows the list.
#[test]
fn no_future_leaves_anything_behind_wherever_it_is_dropped() {
    let runs = sweep::<EtcdFixture>(48);
    for run in &runs {
        println!("{run}");
    }
    let found = runs.iter().filter(|run| !run.findings.is_empty());
    let found: Vec<String> = found.map(ToString::to_string).collect();
    println!("{} runs, {} with findings", runs.len(), found.len());
    assert!(!runs.is_empty(), "something was dropped");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
