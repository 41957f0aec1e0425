//! The contract is kept with the least rights: to call the functions, and nothing else.

mod fixture;

locker_testkit::conformance!(fixture::RestrictedFixture);
