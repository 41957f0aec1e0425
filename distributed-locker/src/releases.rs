//! Hearing of the releases of a lock.

use crate::error::ReadError;
use crate::into_key::IntoKey;
use crate::locker::Locker;
use crate::shared::Shared;
use futures_core::Stream;
use futures_util::StreamExt;
use locker_core::backend::{Backend, HintStream, Watcher};
use locker_core::{BackendError, Key};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The releases of one lock, as far as this process hears of them: a stream of hints, not of proofs.
///
/// An item says that the lock has perhaps become free, so that looking at it may be worth it. One
/// comes for each release that is heard of, and one for each time in which releases may have been
/// missed: the stream subscribes anew by itself when its subscription breaks. It ends when the locker
/// has ended, and does not keep it from ending.
///
/// Dropping it ends the subscription.
pub struct Releases {
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
        self.heard.next().await
    }
}

impl Stream for Releases {
    type Item = Key;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Key>> {
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
    /// subscription. Nobody needs it to get the lock: whoever waits for one is woken anyway.
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
        };
        listening.subscribe().await.map_err(ReadError::Store)?;
        let heard = futures_util::stream::unfold(listening, |mut listening| async move {
            listening
                .hear()
                .await
                .then(|| (listening.key.clone(), listening))
        });
        Ok(Releases {
            key,
            // Fused: it may be asked again after its end.
            heard: Box::pin(heard.fuse()),
        })
    }
}

/// A subscription that is kept up.
struct Listening {
    shared: Arc<Shared>,
    key: Key,
    hints: Option<HintStream>,
}

impl Listening {
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
}
