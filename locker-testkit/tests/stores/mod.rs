//! Deliberately broken stores. Each differs from the memory store in what one method means, and
//! says so in a sentence. Where a second method is written out, it passes the request on as it is
//! and only remembers it.

mod claims;
mod connections;
mod extends;
mod force;
mod hints;
mod lists;
mod lives;
mod planted;
mod reads;
mod releases;
mod take_overs;
mod tokens;

pub(crate) use planted::{Careful, CreatesOver, FailsTheBatch, Hides, ReleasesForeign, Spoiled};

use async_trait::async_trait;
use locker_core::{Connect, Key};
use locker_testkit::memory::MemoryFixture;
use locker_testkit::wrap::{Twist, Twisted};
use locker_testkit::{Exceptions, Fixture, Impossible, Missing, Planted, Time};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// One mistake. Processes of one namespace share the value.
pub(crate) trait Mistake: Twist + Default {
    /// What the store does wrong.
    const SAYS: &'static str;
    /// The case that is about this mistake.
    const SEEN_BY: &'static str;

    /// The store as another process sees it.
    fn of_another_process(&self) -> Self {
        self.clone()
    }
}

/// A row of the table: the sentence, the case about it, and the store.
pub(crate) struct Row {
    pub(crate) says: &'static str,
    pub(crate) seen_by: &'static str,
    pub(crate) passes: fn(locker_testkit::NamedCase) -> bool,
}

/// The row of one mistake.
pub(crate) fn row<M: Mistake>() -> Row {
    Row {
        says: M::SAYS,
        seen_by: M::SEEN_BY,
        passes: passes::<Broken<M>>,
    }
}

/// The row of one carelessness about foreign bytes.
fn spoiled<C: planted::Careless>(says: &'static str, seen_by: &'static str) -> Row {
    Row {
        says,
        seen_by,
        passes: passes::<Spoiled<C>>,
    }
}

/// Whether a store passes a case.
pub(crate) fn passes<F: Fixture>(case: locker_testkit::NamedCase) -> bool {
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        locker_testkit::run::<F>(async move |namespace| case.run(namespace).await);
    }));
    ran.is_ok()
}

/// All broken stores.
pub(crate) fn rows() -> Vec<Row> {
    let themes = [
        claims::rows(),
        take_overs::rows(),
        extends::rows(),
        releases::rows(),
        lives::rows(),
        tokens::rows(),
        force::rows(),
        reads::rows(),
        lists::rows(),
        hints::rows(),
        connections::rows(),
    ];
    let mut rows: Vec<Row> = themes.into_iter().flatten().collect();
    rows.extend([
        spoiled::<CreatesOver>(
            "a create writes over foreign bytes (CU-20)",
            "corrupt::garbage_is_an_error_and_no_grant",
        ),
        spoiled::<FailsTheBatch>(
            "one bad member fails the whole batch (attack 3)",
            "corrupt::a_corrupt_member_harms_no_other",
        ),
        spoiled::<Hides>(
            "a listing passes over what it cannot read",
            "corrupt::a_corrupt_record_hides_no_other_from_a_listing",
        ),
        spoiled::<ReleasesForeign>(
            "a release deletes foreign bytes",
            "corrupt::a_release_over_foreign_bytes_is_not_done",
        ),
    ]);
    rows
}

/// What the connections of a broken store remember together.
pub(crate) type Memo<T> = Arc<Mutex<T>>;

pub(crate) fn locked<T>(memo: &Mutex<T>) -> MutexGuard<'_, T> {
    memo.lock().expect("no holder panics")
}

/// No mistake at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faithful;

impl Twist for Faithful {}

impl Mistake for Faithful {
    const SAYS: &'static str = "nothing";
    const SEEN_BY: &'static str = "none";
}

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
        Twisted::connect(self.memory.process(), self.mistake.of_another_process())
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

/// Writes one file's broken stores: the sentence, the case about it, a name, what its connections
/// remember, and the methods without their types.
macro_rules! mistakes {
    ($($says:literal, $seen_by:literal =>
        $name:ident { $($field:ident: $type:ty),* $(,)? } { $($methods:tt)* })*) => {
        $($crate::stores::one_mistake! {
            $says $seen_by $name { $($field: $type),* } [] $($methods)*
        })*

        pub(super) fn rows() -> Vec<$crate::stores::Row> {
            vec![$($crate::stores::row::<$name>()),*]
        }
    };
}

/// Gives the methods of one mistake their types.
macro_rules! one_mistake {
    ($says:literal $seen_by:literal $name:ident { $($field:ident: $type:ty),* } [$($done:tt)*]) => {
        #[doc = $says]
        #[derive(Debug, Clone, Default)]
        struct $name { $($field: $crate::stores::Memo<$type>),* }

        impl $crate::stores::Mistake for $name {
            const SAYS: &'static str = $says;
            const SEEN_BY: &'static str = $seen_by;
        }

        #[async_trait::async_trait]
        impl locker_testkit::wrap::Twist for $name { $($done)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        try_create($this:ident, $store:ident, $claim:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn try_create(&$this, $store: &dyn locker_core::Backend,
                $claim: &locker_core::backend::Claim
            ) -> locker_core::backend::Answer<locker_core::backend::Claimed> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        take_over($this:ident, $store:ident, $claim:ident, $observed:ident) $body:block
        $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn take_over(&$this, $store: &dyn locker_core::Backend,
                $claim: &locker_core::backend::Claim,
                $observed: &locker_core::backend::Observed
            ) -> locker_core::backend::Answer<locker_core::backend::Claimed> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        extend($this:ident, $store:ident, $owners:ident, $ttl:ident) $body:block
        $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn extend(&$this, $store: &dyn locker_core::Backend,
                $owners: &[locker_core::OwnerHash], $ttl: std::time::Duration
            ) -> locker_core::backend::Answer<
                Vec<Result<locker_core::backend::Standing, locker_core::BackendError>>> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        check($this:ident, $store:ident, $owners:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn check(&$this, $store: &dyn locker_core::Backend,
                $owners: &[locker_core::OwnerHash]
            ) -> locker_core::backend::Answer<
                Vec<Result<locker_core::backend::Standing, locker_core::BackendError>>> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        release($this:ident, $store:ident, $owner:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn release(&$this, $store: &dyn locker_core::Backend,
                $owner: &locker_core::OwnerHash
            ) -> locker_core::backend::Answer<locker_core::backend::Released> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        settle($this:ident, $store:ident, $owner:ident, $not_after:ident) $body:block
        $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn settle(&$this, $store: &dyn locker_core::Backend,
                $owner: &locker_core::OwnerHash, $not_after: locker_core::StoreTime
            ) -> locker_core::backend::Answer<locker_core::backend::Settlement> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        force_release($this:ident, $store:ident, $owner:ident, $force:ident) $body:block
        $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn force_release(&$this, $store: &dyn locker_core::Backend,
                $owner: &locker_core::OwnerHash, $force: locker_core::backend::Force
            ) -> locker_core::backend::Answer<locker_core::backend::Released> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        read_lock($this:ident, $store:ident, $key:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn read_lock(&$this, $store: &dyn locker_core::Backend,
                $key: &locker_core::Key
            ) -> locker_core::backend::Answer<Option<locker_core::backend::Held>> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        read_process($this:ident, $store:ident, $process:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn read_process(&$this, $store: &dyn locker_core::Backend,
                $process: &locker_core::ProcessHash
            ) -> locker_core::backend::Answer<locker_core::backend::Liveness> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        create_process($this:ident, $store:ident, $process:ident, $ttl:ident) $body:block
        $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn create_process(&$this, $store: &dyn locker_core::Backend,
                $process: &locker_core::ProcessHash, $ttl: std::time::Duration
            ) -> locker_core::backend::Answer<locker_core::backend::Birth> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        renew_process($this:ident, $store:ident, $process:ident, $ttl:ident) $body:block
        $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn renew_process(&$this, $store: &dyn locker_core::Backend,
                $process: &locker_core::ProcessHash, $ttl: std::time::Duration
            ) -> locker_core::backend::Answer<locker_core::backend::Renewal> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        retire_process($this:ident, $store:ident, $process:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn retire_process(&$this, $store: &dyn locker_core::Backend,
                $process: &locker_core::ProcessHash
            ) -> locker_core::backend::Answer<()> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        list_locks($this:ident, $store:ident, $prefix:ident, $page:ident) $body:block
        $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn list_locks(&$this, $store: &dyn locker_core::Backend,
                $prefix: &str, $page: &locker_core::backend::Page
            ) -> locker_core::backend::Answer<locker_core::backend::Listing<
                Result<locker_core::backend::Held, locker_core::BackendError>>> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        list_processes($this:ident, $store:ident, $page:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn list_processes(&$this, $store: &dyn locker_core::Backend,
                $page: &locker_core::backend::Page
            ) -> locker_core::backend::Answer<locker_core::backend::Listing<
                Result<locker_core::ProcessData, locker_core::BackendError>>> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        watch($this:ident, $store:ident, $key:ident, $watcher:ident) $body:block
        $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn watch(&$this, $store: &dyn locker_core::Backend,
                $key: &locker_core::Key, $watcher: &locker_core::backend::Watcher
            ) -> Result<locker_core::backend::HintStream, locker_core::BackendError> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        sweep($this:ident, $store:ident, $retention:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            async fn sweep(&$this, $store: &dyn locker_core::Backend,
                $retention: std::time::Duration
            ) -> locker_core::backend::Answer<u64> $body
        ] $($rest)* }
    };
    ($s:literal $c:literal $n:ident $f:tt [$($d:tt)*]
        limits($this:ident, $store:ident) $body:block $($rest:tt)*) => {
        $crate::stores::one_mistake! { $s $c $n $f [$($d)*
            fn limits(&$this, $store: &dyn locker_core::Backend)
                -> locker_core::backend::Limits $body
        ] $($rest)* }
    };
}
pub(crate) use {mistakes, one_mistake};
