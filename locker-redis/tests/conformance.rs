//! The Redis store keeps the contract, on each of the three deployments.

mod fixture;

mod standalone {
    locker_testkit::conformance!(crate::fixture::Standalone);
}

mod sentinel {
    locker_testkit::conformance!(crate::fixture::Sentinel);
}

mod cluster {
    locker_testkit::conformance!(crate::fixture::Cluster);
}
