//! Hearing of the releases of a lock.

use crate::error::ReadError;
use crate::forked::MadeIn;
use crate::into_key::IntoKey;
use crate::locker::Locker;
use crate::options::POLL_WITHOUT_HINTS;
use crate::shared::Shared;
use futures_core::Stream;
use futures_util::StreamExt;
use locker_core::backend::{Backend, HintStream, Liveness, Watcher};
use locker_core::{BackendError, Key, OwnerHash};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The releases of one lock, as far as this process hears of them: a stream of hints, not of proofs.
///
/// An item says that the lock has perhaps become free, so that looking at it may be worth it. At least
/// one comes after the last release that is heard of: several releases between two calls of
/// [`next`](Self::next) may be one item. One also comes for each time in which releases may have been
/// missed: the stream subscribes anew by itself when its subscription breaks. It ends when the locker
/// has ended, and in a forked child, and does not keep the locker from ending.
///
/// Some stores have no hints to give: Postgres behind a transaction pooler, and a Redis Cluster before
/// version 7. There the stream reads the lock every 500 ms as long as it is asked for its next item,
/// and an item says that whoever was seen to hold it does not hold it any more. A lock that is acquired
/// and released between two reads is not heard of. A read that fails is no item and does not end the
/// stream: the next one is compared with the last that was answered.
///
/// Dropping it ends the subscription.
pub struct Releases {
    /// The process that listens. It keeps nothing of a locker that has ended.
    made_in: MadeIn,
    key: Key,
    heard: Pin<Box<dyn Stream<Item = Key> + Send>>,
}

impl Releases {
    /// The lock.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The key, when the lock has perhaps become free; `None` when the locker has ended.
    ///
    /// # Cancel safety
    ///
    /// No release is missed when this is dropped.
    pub async fn next(&mut self) -> Option<Key> {
        StreamExt::next(self).await
    }
}

impl Stream for Releases {
    type Item = Key;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Key>> {
        // What there is to hear is said to its parent.
        if self.made_in.is_elsewhere() {
            return Poll::Ready(None);
        }
        self.heard.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Releases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Releases")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Locker {
    /// The [`Releases`] of a lock, from now on. It resolves when the store has confirmed the
    /// subscription or, where it has no hints, when the lock has been read for the first time. Nobody
    /// needs it to get the lock: whoever waits for one is woken anyway.
    ///
    /// ```
    /// # use distributed_locker::{Locker, memory};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let locker = Locker::builder(memory()).start().await?;
    /// let guard = locker.try_acquire("nightly").await?.expect("it is free");
    /// let mut releases = locker.on_release("nightly").await?;
    /// let listening = tokio::spawn(async move { releases.next().await });
    /// guard.release().await?;
    /// let key = listening.await?.expect("the locker has not ended");
    /// println!("{key} is free, perhaps");
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
    /// When it is dropped nothing is subscribed.
    pub async fn on_release<K>(&self, key: K) -> Result<Releases, ReadError>
    where
        K: IntoKey,
    {
        let key = key.into_key().map_err(ReadError::InvalidKey)?;
        let mut listening = Listening {
            shared: Arc::clone(self.shared()),
            key: key.clone(),
            hints: None,
            owner: None,
        };
        listening.begin().await.map_err(ReadError::Store)?;
        let heard = futures_util::stream::unfold(listening, |mut listening| async move {
            listening
                .hear()
                .await
                .then(|| (listening.key.clone(), listening))
        });
        Ok(Releases {
            made_in: self.shared().made_in,
            key,
            // Fused: it may be asked again after its end.
            heard: Box::pin(heard.fuse()),
        })
    }
}

/// A subscription that is kept up; or, where the store has no hints, one reader of the lock.
struct Listening {
    shared: Arc<Shared>,
    key: Key,
    hints: Option<HintStream>,
    /// Who held the lock when it was read the last time.
    owner: Option<OwnerHash>,
}

impl Listening {
    async fn begin(&mut self) -> Result<(), BackendError> {
        if self.shared.limits.hints {
            self.subscribe().await
        } else {
            self.read().await.map(drop)
        }
    }

    async fn subscribe(&mut self) -> Result<(), BackendError> {
        let watch =
            async |store: Arc<dyn Backend>| store.watch(&self.key, &Watcher::Observer).await;
        self.hints = Some(self.shared.caller.call(watch).await?);
        Ok(())
    }

    /// Waits for a sign; answers whether one came before the locker ended.
    async fn hear(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            _ = shared.ended() => false,
            () = self.sign() => true,
        }
    }

    async fn sign(&mut self) {
        if self.shared.limits.hints {
            self.hint().await;
        } else {
            self.look().await;
        }
    }

    async fn hint(&mut self) {
        loop {
            match &mut self.hints {
                // Whatever the hint says, it may be free.
                Some(hints) => match hints.next().await {
                    Some(_) => return,
                    None => self.hints = None,
                },
                None => {
                    // Whatever has ended the subscription may end the next one as soon.
                    let pause = self.shared.time.now() + self.shared.timing.retry_after;
                    self.shared.time.sleep_until(pause).await;
                    if self.subscribe().await.is_ok() {
                        // What was released meanwhile was not heard.
                        return;
                    }
                }
            }
        }
    }

    async fn look(&mut self) {
        loop {
            // However fast items are asked for, the store is asked no oftener.
            let pause = self.shared.time.now() + POLL_WITHOUT_HINTS;
            self.shared.time.sleep_until(pause).await;
            // An error says nothing about the lock.
            if let Ok(true) = self.read().await {
                return;
            }
        }
    }

    /// Reads the lock. Answers whether who held it when it was read before does not hold it any more.
    async fn read(&mut self) -> Result<bool, BackendError> {
        let read = async |store: Arc<dyn Backend>| store.read_lock(&self.key).await;
        let held = self.shared.caller.call(read).await?.value;
        // What is left of a process that has ended is held by nobody.
        let held = held.filter(|held| held.holder != Some(Liveness::Dead));
        let owner = held.map(|held| held.data.owner);
        let before = std::mem::replace(&mut self.owner, owner);
        Ok(before.is_some() && before != self.owner)
    }
}
