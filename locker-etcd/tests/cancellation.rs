//! The cancellation sweep on one member, in real time.

mod fixture;

use fixture::EtcdFixture;
use locker_testkit::cancellation::leaves_nothing;

/// F25, S7, L8. `--nocapture` shows the list.
#[test]
fn no_future_leaves_anything_behind_wherever_it_is_dropped() {
    leaves_nothing::<EtcdFixture>(48);
}
