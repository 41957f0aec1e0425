//! Mistakes in the life of processes, and in who is woken.

use async_trait::async_trait;
use futures_util::StreamExt;
use locker_core::backend::{Answer, Hint, HintStream, Renewal, Watcher};
use locker_core::{Backend, BackendError, Key, ProcessHash};
use locker_testkit::wrap::Twist;
use std::time::Duration;

/// A renewal is acknowledged, whatever it found.
#[derive(Debug, Clone, Default)]
pub(crate) struct RenewsTheDead;

#[async_trait]
impl Twist for RenewsTheDead {
    async fn renew_process(
        &self,
        store: &dyn Backend,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Answer<Renewal> {
        let reply = store.renew_process(process, ttl).await?;
        Ok(reply.map(|_| Renewal::Renewed { valid_for: ttl }))
    }
}

/// Every waiter is told that it is the first: a herd (CU-17, PG-11).
#[derive(Debug, Clone, Default)]
pub(crate) struct PutsEverybodyFirst;

#[async_trait]
impl Twist for PutsEverybodyFirst {
    async fn watch(
        &self,
        store: &dyn Backend,
        key: &Key,
        watcher: &Watcher,
    ) -> Result<HintStream, BackendError> {
        let hints = store.watch(key, watcher).await?;
        Ok(Box::pin(hints.map(|hint| match hint {
            Hint::Free { .. } => Hint::Free { place: 0 },
            Hint::Rebuilt => Hint::Rebuilt,
        })))
    }
}
