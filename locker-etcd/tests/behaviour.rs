//! The behaviours of a locker, on etcd.

mod fixture;

use fixture::EtcdFixture;
use locker_testkit::program::Program;
use std::process::ExitCode;

/// Few: with T at 2 s a request has 0.6 s, and some of the behaviours promise a time.
const AT_A_TIME: usize = 4;

fn main() -> ExitCode {
    Program::new(AT_A_TIME)
        .behaviours::<EtcdFixture>("behaviour")
        .main()
}
