//! The etcd store keeps the contract: on one member, on a cluster of three, and for a user with the
//! rights that the README grants and no others.
//!
//! Leases are whole seconds here, so the cases wait nearly all the time: they run many at a time.

mod fixture;

use fixture::{ClusterFixture, EtcdFixture, UserFixture};
use locker_testkit::program::Program;
use std::process::ExitCode;

/// A case has up to a dozen processes and as many connections; on two processors this many cases
/// leave both with something to do, and nobody waits for its turn.
const AT_A_TIME: usize = 32;

fn main() -> ExitCode {
    Program::new(AT_A_TIME)
        .conformance::<EtcdFixture>("member")
        .conformance::<ClusterFixture>("cluster")
        .conformance::<UserFixture>("user")
        .main()
}
