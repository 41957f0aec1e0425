//! What one may ask about a lock, and how an operator takes one away.

use crate::error::ReadError;
use crate::into_key::IntoKey;
use crate::locker::Locker;
use locker_core::backend::{Backend, Force, Liveness, Released};
use locker_core::{BackendError, LockData, OwnerHash};
use std::sync::Arc;

/// How an owner hash stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnerHashStatus {
    /// This owner holds the lock, and its process lives as far as the store can tell: the store does
    /// not call it dead.
    Running,
    /// Another owner holds the lock.
    SomeoneElseHoldsLock(LockData),
    /// Nobody holds the lock.
    NoKey,
    /// This owner's record is there, but its process is dead: the lock can be taken over.
    NoRunningProcess,
    /// The text is not an owner hash.
    MalformedOwnerHash,
}

impl Locker {
    /// Who holds a lock. A record whose process is dead is shown as well.
    ///
    /// The answer may be old by the time it is here: it is for people and for reports. Whoever wants
    /// to own the lock acquires it.
    ///
    /// ```
    /// # use distributed_locker::{Locker, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// let holder = locker.read_lock_data("nightly").await?.expect("it is held");
    /// assert_eq!(holder.owner, *guard.owner_hash());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReadError`]. Nothing was changed, and nothing is known about the lock.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any point.
    pub async fn read_lock_data<K>(&self, key: K) -> Result<Option<LockData>, ReadError>
    where
        K: IntoKey,
    {
        let key = key.into_key().map_err(ReadError::InvalidKey)?;
        let read = async |store: Arc<dyn Backend>| store.read_lock(&key).await;
        let read = self.shared().caller.call(read).await;
        Ok(read.map_err(ReadError::Store)?.value.map(|held| held.data))
    }

    /// How an owner hash stands, be it a text or an [`OwnerHash`]: first whether it owns the lock,
    /// then whether its process lives.
    ///
    /// ```
    /// # use distributed_locker::{Locker, OwnerHashStatus, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// let owner = guard.owner_hash().to_string();
    /// assert_eq!(locker.read_owner_hash_status(&owner).await?, OwnerHashStatus::Running);
    /// guard.release().await?;
    /// assert_eq!(locker.read_owner_hash_status(&owner).await?, OwnerHashStatus::NoKey);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReadError::Store`]. Nothing was changed, and nothing is known about the lock. A text that is
    /// no owner hash is no error, but [`OwnerHashStatus::MalformedOwnerHash`].
    ///
    /// # Cancel safety
    ///
    /// It may be dropped at any point.
    pub async fn read_owner_hash_status(
        &self,
        owner: impl TryInto<OwnerHash>,
    ) -> Result<OwnerHashStatus, ReadError> {
        let Ok(owner) = owner.try_into() else {
            return Ok(OwnerHashStatus::MalformedOwnerHash);
        };
        let caller = &self.shared().caller;
        let read = async |store: Arc<dyn Backend>| store.read_lock(owner.key()).await;
        let held = caller.call(read).await.map_err(ReadError::Store)?.value;
        let Some(held) = held else {
            return Ok(OwnerHashStatus::NoKey);
        };
        if held.data.owner != owner {
            return Ok(OwnerHashStatus::SomeoneElseHoldsLock(held.data));
        }
        let liveness = match held.holder {
            Some(liveness) => liveness,
            None => {
                let read =
                    async |store: Arc<dyn Backend>| store.read_process(owner.process()).await;
                caller.call(read).await.map_err(ReadError::Store)?.value
            }
        };
        Ok(match liveness {
            // What cannot be told apart from life is not called dead: nobody could take it over.
            Liveness::Alive(_) | Liveness::Unknown => OwnerHashStatus::Running,
            Liveness::Dead => OwnerHashStatus::NoRunningProcess,
        })
    }

    /// Takes a lock from its owner, by an operator's will.
    ///
    /// [`Force::Mark`] lets the owner stop first: the lock is free soon after the answer
    /// ([`read_lock_data`](Self::read_lock_data) tells when). [`Force::Now`] frees it before the answer, while
    /// the owner may still be working: only the fencing token protects then.
    ///
    /// ```
    /// # use distributed_locker::{Force, Locker, Released, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// # let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// // Of whom the lock is taken is named: somebody who got it meanwhile keeps it.
    /// let holder = locker.read_lock_data("nightly").await?.expect("it is held");
    /// let answer = locker.force_release(&holder.owner, Force::Now).await?;
    /// assert_eq!(answer, Released::Done);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BackendError`]; its [effect](BackendError::effect) says whether it may have happened.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped it has happened or not.
    pub async fn force_release(
        &self,
        owner: &OwnerHash,
        force: Force,
    ) -> Result<Released, BackendError> {
        let release = async |store: Arc<dyn Backend>| store.force_release(owner, force).await;
        Ok(self.shared().caller.call(release).await?.value)
    }
}
