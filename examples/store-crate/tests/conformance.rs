//! The proof of the store: the conformance list, and what the list cannot know about it.

use async_trait::async_trait;
use example_maintenance_store::{Maintenance, WithMaintenance};
use locker_core::backend::{Released, Standing};
use locker_core::{Connect, Effect, ErrorKind, Key};
use locker_testkit::case::{Case, LONG};
use locker_testkit::memory::MemoryFixture;
use locker_testkit::{Exceptions, Fixture, Impossible, Missing, Planted, Time};
use std::sync::Arc;
use std::time::Duration;

/// A memory store behind a switch, for each case a fresh one.
#[derive(Debug)]
struct SwitchedMemory {
    memory: MemoryFixture,
    maintenance: Maintenance,
}

#[async_trait]
impl Fixture for SwitchedMemory {
    async fn open() -> Result<Self, Missing> {
        Ok(Self {
            memory: MemoryFixture::open().await?,
            maintenance: Maintenance::default(),
        })
    }

    fn process(&self) -> Arc<dyn Connect> {
        let maintenance = self.maintenance.clone();
        Arc::new(WithMaintenance::new(self.memory.process(), maintenance))
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
        Exceptions::NONE
    }
}

// One test for each case of the list: whoever passes them all keeps the contract.
locker_testkit::conformance!(SwitchedMemory);

#[tokio::test]
async fn during_maintenance_nothing_begins_and_what_runs_goes_on() {
    let fixture = SwitchedMemory::open().await.unwrap();
    let maintenance = fixture.maintenance.clone();
    let case = Case::new(Box::new(fixture));
    let [worker, other] = case.processes().await;
    let [running, wanted] = case.keys();
    let grant = worker.acquire(&running).await;

    maintenance.begin();
    let claim = other.claim(&other.owner(&wanted), LONG);
    let refused = other.backend().try_create(&claim).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert_eq!(
        refused.effect(),
        Effect::NotApplied,
        "there is nothing to settle"
    );
    assert_eq!(worker.extend(&grant.owner, LONG).await, Standing::Mine);
    assert_eq!(worker.release(&grant.owner).await, Released::Done);

    maintenance.end();
    other.acquire(&wanted).await;
}
