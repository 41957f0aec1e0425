//! The fixture of the memory store: virtual time, and nothing that could be missing.

use crate::fixture::{Exceptions, Fixture, Impossible, Missing, Planted, Time};
use async_trait::async_trait;
use locker_core::memory::Memory;
use locker_core::{Connect, Key, ManualClock};
use std::sync::Arc;
use std::time::Duration;

/// A memory store of its own, on a clock of its own.
#[derive(Debug)]
pub struct MemoryFixture {
    clock: Arc<ManualClock>,
    store: Memory,
}

#[async_trait]
impl Fixture for MemoryFixture {
    async fn open() -> Result<Self, Missing> {
        let clock = Arc::new(ManualClock::new());
        let store = Memory::new(clock.clone());
        Ok(Self { clock, store })
    }

    fn process(&self) -> Arc<dyn Connect> {
        Arc::new(self.store.clone())
    }

    fn unit(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn time(&self) -> Time {
        Time::Virtual(Arc::clone(&self.clock))
    }

    async fn plant(&self, _key: &Key, _planted: Planted) -> Result<(), Impossible> {
        Err(Impossible(
            "the memory store holds typed records and never decodes a byte",
        ))
    }

    fn exceptions(&self) -> Exceptions {
        Exceptions::NONE
    }
}
