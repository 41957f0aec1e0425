//! The memory store keeps the contract.

use locker_testkit::memory::MemoryFixture;

locker_testkit::conformance!(MemoryFixture);
