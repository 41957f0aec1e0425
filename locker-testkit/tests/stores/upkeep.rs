//! Mistakes in what an owner does with its lock.

use async_trait::async_trait;
use locker_core::backend::{Answer, Claim, Claimed, Released, Standing};
use locker_core::{Backend, BackendError, OwnerHash, StoreTime};
use locker_testkit::wrap::Twist;
use std::time::Duration;

/// A release deletes by key (PG-2).
#[derive(Debug, Clone, Default)]
pub(crate) struct ReleasesAnyones;

#[async_trait]
impl Twist for ReleasesAnyones {
    async fn release(&self, store: &dyn Backend, owner: &OwnerHash) -> Answer<Released> {
        match store.read_lock(owner.key()).await?.value {
            Some(held) => store.release(&held.data.owner).await,
            None => store.release(owner).await,
        }
    }
}

/// An extension that finds nothing writes the record anew (attack 26.4).
#[derive(Debug, Clone, Default)]
pub(crate) struct RevivesTheExpired;

#[async_trait]
impl Twist for RevivesTheExpired {
    async fn extend(
        &self,
        store: &dyn Backend,
        owners: &[OwnerHash],
        ttl: Duration,
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        let mut reply = store.extend(owners, ttl).await?;
        for (owner, standing) in owners.iter().zip(&mut reply.value) {
            if matches!(standing, Ok(Standing::Absent)) {
                let claim = Claim {
                    owner: owner.clone(),
                    ttl,
                    not_after: StoreTime::from_micros(u64::MAX),
                };
                if let Claimed::Granted(_) = store.try_create(&claim).await?.value {
                    *standing = Ok(Standing::Mine);
                }
            }
        }
        Ok(reply)
    }
}

/// A check compares the owner and nothing else (attack 15).
#[derive(Debug, Clone, Default)]
pub(crate) struct OverlooksTheMark;

#[async_trait]
impl Twist for OverlooksTheMark {
    async fn check(
        &self,
        store: &dyn Backend,
        owners: &[OwnerHash],
    ) -> Answer<Vec<Result<Standing, BackendError>>> {
        let mut reply = store.check(owners).await?;
        for standing in &mut reply.value {
            if matches!(standing, Ok(Standing::Marked)) {
                *standing = Ok(Standing::Mine);
            }
        }
        Ok(reply)
    }
}
