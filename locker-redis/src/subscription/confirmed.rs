//! Which sharded channels the server has confirmed.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The sharded channels of which the server has said that they are subscribed to.
#[derive(Debug, Default)]
pub(crate) struct Confirmed {
    channels: Mutex<BTreeSet<String>>,
    more: Notify,
}

impl Confirmed {
    pub(crate) fn note(&self, channel: &str) {
        self.lock().insert(channel.to_owned());
        self.more.notify_waiters();
    }

    pub(crate) fn forget(&self, channel: &str) {
        self.lock().remove(channel);
    }

    /// Waits for the server's word, and forgets it.
    pub(crate) async fn wait(&self, channel: &str) {
        loop {
            let more = self.more.notified();
            if self.lock().remove(channel) {
                return;
            }
            more.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
