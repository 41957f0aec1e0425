//! The behaviours of a locker, on the memory store, in virtual time.

use locker_testkit::memory::MemoryFixture;

locker_testkit::behaviours!(MemoryFixture);
