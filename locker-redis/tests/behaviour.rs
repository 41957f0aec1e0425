//! The behaviours of a locker, on each of the three deployments.

mod fixture;

mod standalone {
    locker_testkit::behaviours!(crate::fixture::Standalone);
}

mod sentinel {
    locker_testkit::behaviours!(crate::fixture::Sentinel);
}

mod cluster {
    locker_testkit::behaviours!(crate::fixture::Cluster);
}
