//! Mistakes in what grants a lock, and in what settles an attempt.

use async_trait::async_trait;
use locker_core::backend::{
    Answer, Claim, Claimed, Force, Held, Liveness, Observed, Reply, Settlement,
};
use locker_core::{Backend, Key, OwnerHash, StoreTime, Token};
use locker_testkit::wrap::Twist;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A create finds an expired record of somebody else, and does not see that it has expired.
#[derive(Debug, Clone, Default)]
pub(crate) struct OverlooksExpiry {
    granted: Arc<Mutex<HashMap<Key, (Held, StoreTime)>>>,
}

#[async_trait]
impl Twist for OverlooksExpiry {
    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        let before = store.read_lock(claim.key()).await?;
        let granted = self
            .granted
            .lock()
            .expect("no holder panics")
            .get(claim.key())
            .cloned();
        if let (None, Some((held, expires))) = (before.value, granted)
            && before.store_time >= Some(expires)
            && held.data.owner != claim.owner
        {
            return Ok(Reply {
                value: Claimed::Held(held),
                store_time: before.store_time,
            });
        }
        let reply = store.try_create(claim).await?;
        if let (Claimed::Granted(_), Some(now)) = (&reply.value, reply.store_time)
            && let Some(held) = store.read_lock(claim.key()).await?.value
        {
            let grant = (held, now + claim.ttl);
            self.granted
                .lock()
                .expect("no holder panics")
                .insert(claim.key().clone(), grant);
        }
        Ok(reply)
    }
}

/// A create finds the holder dead and helps itself (attack 4c).
#[derive(Debug, Clone, Default)]
pub(crate) struct CreateTakesOver;

#[async_trait]
impl Twist for CreateTakesOver {
    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        let reply = store.try_create(claim).await?;
        match &reply.value {
            Claimed::Held(Held {
                holder: Some(Liveness::Dead),
                observed,
                ..
            }) => store.take_over(claim, observed).await,
            _ => Ok(reply),
        }
    }
}

/// A create lands whenever it arrives (attack 1).
#[derive(Debug, Clone, Default)]
pub(crate) struct CreatesLate;

#[async_trait]
impl Twist for CreatesLate {
    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        let not_after = StoreTime::from_micros(u64::MAX);
        let claim = Claim {
            not_after,
            ..claim.clone()
        };
        store.try_create(&claim).await
    }
}

/// A repeated create finds itself in its own way (CU-7).
#[derive(Debug, Clone, Default)]
pub(crate) struct LocksItselfOut;

#[async_trait]
impl Twist for LocksItselfOut {
    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        let before = store.read_lock(claim.key()).await?;
        match before.value {
            Some(held) if held.data.owner == claim.owner => Ok(Reply {
                value: Claimed::Held(held),
                store_time: before.store_time,
            }),
            _ => store.try_create(claim).await,
        }
    }
}

/// A take-over compares the record, and forgets to ask whether its process is dead (CU-3).
#[derive(Debug, Clone, Default)]
pub(crate) struct RobsTheLiving;

#[async_trait]
impl Twist for RobsTheLiving {
    async fn take_over(
        &self,
        store: &dyn Backend,
        claim: &Claim,
        observed: &Observed,
    ) -> Answer<Claimed> {
        let reply = store.take_over(claim, observed).await?;
        match &reply.value {
            Claimed::Held(held) if held.observed == *observed => {
                store.force_release(&held.data.owner, Force::Now).await?;
                store.try_create(claim).await
            }
            _ => Ok(reply),
        }
    }
}

/// A take-over takes what is there now, whatever was observed.
#[derive(Debug, Clone, Default)]
pub(crate) struct IgnoresTheObservation;

#[async_trait]
impl Twist for IgnoresTheObservation {
    async fn take_over(
        &self,
        store: &dyn Backend,
        claim: &Claim,
        observed: &Observed,
    ) -> Answer<Claimed> {
        let present = store.read_lock(claim.key()).await?.value;
        let observed = present.map_or_else(|| observed.clone(), |held| held.observed);
        store.take_over(claim, &observed).await
    }
}

/// Tokens lose their last digit on the way (attack 34d).
#[derive(Debug, Clone, Default)]
pub(crate) struct RepeatsTokens;

#[async_trait]
impl Twist for RepeatsTokens {
    async fn try_create(&self, store: &dyn Backend, claim: &Claim) -> Answer<Claimed> {
        let reply = store.try_create(claim).await?;
        Ok(reply.map(|claimed| match claimed {
            Claimed::Granted(token) => Claimed::Granted(Token::new(token.get() / 10 * 10)),
            other => other,
        }))
    }
}

/// What was deleted once is taken for settled (attack 1).
#[derive(Debug, Clone, Default)]
pub(crate) struct SettlesTooSoon;

#[async_trait]
impl Twist for SettlesTooSoon {
    async fn settle(
        &self,
        store: &dyn Backend,
        owner: &OwnerHash,
        not_after: StoreTime,
    ) -> Answer<Settlement> {
        let reply = store.settle(owner, not_after).await?;
        Ok(reply.map(|settlement| match settlement {
            Settlement::Open(released) | Settlement::Final(released) => Settlement::Final(released),
        }))
    }
}
