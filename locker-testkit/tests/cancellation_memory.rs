//! The cancellation sweep on the memory store, in virtual time.

use locker_testkit::cancellation::leaves_nothing;
use locker_testkit::memory::MemoryFixture;

/// F25, S7, L8. `--nocapture` shows the list.
#[test]
fn no_future_leaves_anything_behind_wherever_it_is_dropped() {
    leaves_nothing::<MemoryFixture>(4);
}
