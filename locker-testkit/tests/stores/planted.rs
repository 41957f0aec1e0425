//! A memory store in which foreign bytes can be found, rightly or with one mistake: the memory store
//! itself cannot hold any, and the cases about corruption must be proved all the same.

use async_trait::async_trait;
use locker_core::backend::{
    Answer, Claim, Claimed, Held, Listing, Observed, Page, Released, Standing,
};
use locker_core::{Backend, BackendError, Connect, Effect, ErrorKind, Key, OwnerHash};
use locker_testkit::memory::MemoryFixture;
use locker_testkit::wrap::{Twist, Twisted};
use locker_testkit::{Exceptions, Fixture, Impossible, Missing, Planted, Time};
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Which mistake is made about foreign bytes; none by default.
pub(crate) trait Careless: fmt::Debug + Clone + Send + Sync + 'static {
    /// A create takes them for nothing and writes over them (CU-20).
    const CREATES_OVER: bool = false;
    /// One of them fails the whole batch (attack 3).
    const FAILS_THE_BATCH: bool = false;
    /// A listing passes over them.
    const HIDES: bool = false;
    /// A release deletes them.
    const RELEASES: bool = false;
}

macro_rules! careless {
    ($($name:ident { $($mistake:ident)? })*) => {$(
        #[derive(Debug, Clone)]
        pub(crate) struct $name;

        impl Careless for $name {
            $(const $mistake: bool = true;)?
        }
    )*};
}

careless! {
    Careful {}
    CreatesOver { CREATES_OVER }
    FailsTheBatch { FAILS_THE_BATCH }
    Hides { HIDES }
    ReleasesForeign { RELEASES }
}

/// The keys under which something foreign stands.
#[derive(Debug, Clone)]
struct Foreign<C> {
    keys: Arc<Mutex<BTreeSet<Key>>>,
    careless: PhantomData<C>,
}

impl<C> Foreign<C> {
    fn keys(&self) -> BTreeSet<Key> {
        self.keys.lock().expect("no holder panics").clone()
    }

    fn look(&self, key: &Key) -> Result<(), BackendError> {
        if self.keys().contains(key) {
            return Err(corrupt());
        }
        Ok(())
    }

    fn remove(&self, key: &Key) -> bool {
        self.keys.lock().expect("no holder panics").remove(key)
    }
}

fn corrupt() -> BackendError {
    let what = "what stands under this key is no record";
    BackendError::new(ErrorKind::Corrupt, Effect::NotApplied, what)
}

impl<C: Careless> Foreign<C> {
    fn spoil(
        &self,
        owners: &[OwnerHash],
        members: &mut [Result<Standing, BackendError>],
    ) -> Result<(), BackendError> {
        for (owner, member) in owners.iter().zip(members) {
            if let Err(error) = self.look(owner.key()) {
                if C::FAILS_THE_BATCH {
                    return Err(error);
                }
                *member = Err(error);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl<C: Careless> Twist for Foreign<C> {
    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        if C::CREATES_OVER {
            self.remove(claim.key());
        }
        self.look(claim.key())?;
        store.try_create(claim).await
    }

    async fn take_over(
        &self,
        store: &dyn Backend,
        claim: &Claim,
        observed: &Observed,
    ) -> Answer<Claimed> {
        self.look(claim.key())?;
        store.take_over(claim, observed).await
    }

    async fn extend(
        &self,
        store: &dyn Backend,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        let mut reply = store.extend(owners, ttl).await?;
        self.spoil(owners, &mut reply.value)?;
        Ok(reply)
    }

    async fn check(
        &self,
        store: &dyn Backend,
        owners: &[OwnerHash],
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        let mut reply = store.check(owners).await?;
        self.spoil(owners, &mut reply.value)?;
        Ok(reply)
    }

    async fn release(&self, store: &dyn Backend, owner: &OwnerHash) -> Answer<Released> {
        if C::RELEASES && self.remove(owner.key()) {
            return Ok(store.release(owner).await?.map(|_| Released::Done));
        }
        self.look(owner.key())?;
        store.release(owner).await
    }

    async fn read_lock(&self, store: &dyn Backend, key: &Key) -> Answer<Option<Held>> {
        self.look(key)?;
        store.read_lock(key).await
    }

    async fn list_locks(
        &self,
        store: &dyn Backend,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        let mut reply = store.list_locks(prefix, page).await?;
        if !C::HIDES {
            let here = self.keys();
            let here = here.iter().filter(|key| key.as_str().starts_with(prefix));
            reply.value.items.extend(here.map(|_| Err(corrupt())));
        }
        Ok(reply)
    }
}

/// The memory store, with foreign bytes in it.
#[derive(Debug)]
pub(crate) struct Spoiled<C> {
    memory: MemoryFixture,
    foreign: Foreign<C>,
}

#[async_trait]
impl<C: Careless> Fixture for Spoiled<C> {
    async fn open() -> Result<Self, Missing> {
        Ok(Self {
            memory: MemoryFixture::open().await?,
            foreign: Foreign {
                keys: Arc::default(),
                careless: PhantomData,
            },
        })
    }

    fn process(&self) -> Arc<dyn Connect> {
        Twisted::connect(self.memory.process(), self.foreign.clone())
    }

    fn unit(&self) -> Duration {
        self.memory.unit()
    }

    fn time(&self) -> Time {
        self.memory.time()
    }

    async fn plant(&self, key: &Key, _planted: Planted) -> Result<(), Impossible> {
        let mut keys = self.foreign.keys.lock().expect("no holder panics");
        keys.insert(key.clone());
        Ok(())
    }

    fn exceptions(&self) -> Exceptions {
        self.memory.exceptions()
    }
}
