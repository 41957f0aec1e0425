//! The cancellation sweep on the embedded store, in real time.

mod fixture;

use fixture::SqliteFixture;
use locker_testkit::cancellation::leaves_nothing;
use std::time::{Duration, Instant};

/// Open descriptors and threads of this process.
fn resources() -> (usize, usize) {
    let entries = |path| std::fs::read_dir(path).expect("procfs is there").count();
    (entries("/proc/self/fd"), entries("/proc/self/task"))
}

/// What is open, for the message.
fn descriptors() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("procfs is there");
    let targets = entries
        .flatten()
        .map(|entry| std::fs::read_link(entry.path()));
    let names = targets.flatten().map(|target| target.display().to_string());
    names.collect()
}

/// F25, S7, L8. `--nocapture` shows the list.
#[test]
fn no_future_leaves_anything_behind_wherever_it_is_dropped() {
    // Tokio keeps one pair of sockets for signals as long as the process lives.
    drop(
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
    );
    let before = resources();
    leaves_nothing::<SqliteFixture>(24);
    // The threads of the last lockers end in the background.
    let limit = Instant::now() + Duration::from_secs(20);
    while resources() > before && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = resources();
    assert!(
        after.0 <= before.0 && after.1 <= before.1,
        "descriptors and threads: {before:?} before, {after:?} after: {:?}",
        descriptors()
    );
}
