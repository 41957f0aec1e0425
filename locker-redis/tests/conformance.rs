//! The Redis store keeps the contract, on each of the three deployments, and with no more rights
//! than the README asks for.

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

mod standalone_with_the_rights_of_the_readme {
    locker_testkit::conformance!(crate::fixture::PoorStandalone);
}

mod cluster_with_the_rights_of_the_readme {
    locker_testkit::conformance!(crate::fixture::PoorCluster);
}
