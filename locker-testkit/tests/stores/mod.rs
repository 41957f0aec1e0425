//! Deliberately broken stores. Each differs from the memory store in one method, and its name says
//! in what.

mod claims;
mod lives;
mod planted;
mod upkeep;

pub(crate) use claims::{
    CreateTakesOver, CreatesLate, IgnoresTheObservation, LocksItselfOut, OverlooksExpiry,
    RepeatsTokens, RobsTheLiving, SettlesTooSoon,
};
pub(crate) use lives::{PutsEverybodyFirst, RenewsTheDead};
pub(crate) use planted::{Careful, CreatesOver, FailsTheBatch, Hides, ReleasesForeign, Spoiled};
pub(crate) use upkeep::{OverlooksTheMark, ReleasesAnyones, RevivesTheExpired};

use async_trait::async_trait;
use locker_core::{Connect, Key};
use locker_testkit::memory::MemoryFixture;
use locker_testkit::wrap::{Twist, Twisted};
use locker_testkit::{Exceptions, Fixture, Impossible, Missing, Planted, Time};
use std::sync::Arc;
use std::time::Duration;

/// One mistake. Processes of one namespace share the value.
pub(crate) trait Mistake: Twist + Default {}

impl<T: Twist + Default> Mistake for T {}

/// No mistake at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faithful;

impl Twist for Faithful {}

/// The memory store with a mistake.
#[derive(Debug)]
pub(crate) struct Broken<M> {
    memory: MemoryFixture,
    mistake: M,
}

#[async_trait]
impl<M: Mistake> Fixture for Broken<M> {
    async fn open() -> Result<Self, Missing> {
        Ok(Self {
            memory: MemoryFixture::open().await?,
            mistake: M::default(),
        })
    }

    fn process(&self) -> Arc<dyn Connect> {
        Twisted::connect(self.memory.process(), self.mistake.clone())
    }

    fn unit(&self) -> Duration {
        self.memory.unit()
    }

    fn time(&self) -> Time {
        self.memory.time()
    }

    async fn plant(&self, key: &Key, planted: Planted) -> Result<(), Impossible> {
        self.memory.plant(key, planted).await
    }

    fn exceptions(&self) -> Exceptions {
        self.memory.exceptions()
    }
}
