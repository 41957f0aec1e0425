//! The behaviours of a locker, on etcd.

mod fixture;

locker_testkit::behaviours!(fixture::EtcdFixture);
