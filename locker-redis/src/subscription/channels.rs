//! The sharded channels of a subscription to a cluster. One lies beside each lock that is watched, at the
//! node of the lock.

use super::ROUND_TRIP;
use super::confirmed::Confirmed;
use crate::cluster::slots::{self, Range};
use crate::connection::bounded;
use crate::error::{self, Stage};
use futures_util::future::join_all;
use locker_core::BackendError;
use redis::cluster_async::ClusterConnection;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Channels {
    /// What is being left. The server's word for that is expected.
    leaving: Mutex<BTreeSet<String>>,
    /// What the server itself has confirmed.
    confirmed: Confirmed,
}

impl Channels {
    /// A new connection listens to none, and leaves none.
    pub(super) fn begin(&self) {
        self.leaving().clear();
    }

    /// Begins to listen. Answers the channels that are listened to from now on, and why others are not:
    /// each lies at a node of its own, and one node that is gone says nothing about the others.
    ///
    /// One of each primary goes first. The client tries each one of a dead primary again and again, and
    /// with many it gets to nothing else.
    pub(super) async fn enter<'c>(
        &self,
        cluster: &ClusterConnection,
        ranges: &[Range],
        wanted: impl Iterator<Item = &'c String>,
    ) -> (Vec<String>, Option<BackendError>) {
        let primary = |channel: &String| slots::range_of(ranges, slots::of(channel));
        let primary = |channel: &String| primary(channel).map(|range| range.id.as_str());
        let mut asked = BTreeSet::new();
        let (first, mut others): (Vec<_>, Vec<_>) =
            wanted.partition(|channel| primary(channel).is_none_or(|id| asked.insert(id)));
        let enter = |channel| self.enter_one(cluster, channel);
        let mut answers = join_all(first.into_iter().map(enter)).await;
        let sound: BTreeSet<_> = answers.iter().flatten().map(primary).collect();
        others.retain(|channel| sound.contains(&primary(channel)));
        answers.extend(join_all(others.into_iter().map(enter)).await);
        let (mut entered, mut failed) = (Vec::new(), None);
        for answer in answers {
            match answer {
                Ok(channel) => entered.push(channel),
                Err(error) => failed = Some(error),
            }
        }
        (entered, failed)
    }

    async fn enter_one(
        &self,
        cluster: &ClusterConnection,
        channel: &String,
    ) -> Result<String, BackendError> {
        let mut cluster = cluster.clone();
        let entered = async {
            self.confirmed.forget(channel);
            let subscribed = cluster.ssubscribe(channel).await;
            subscribed.map_err(|cause| error::from_redis(cause, Stage::Connecting))?;
            // The client takes any word about a subscription for the answer to the oldest request, be
            // it the one about a channel that was just left. Only the server's word about this channel
            // says that no release is missed from now on.
            self.confirmed.wait(channel).await;
            Ok(channel.clone())
        };
        bounded(ROUND_TRIP, entered).await
    }

    /// Listens no longer.
    pub(super) async fn leave(
        &self,
        cluster: &ClusterConnection,
        channel: &str,
    ) -> Result<(), BackendError> {
        self.leaving().insert(channel.to_owned());
        let mut cluster = cluster.clone();
        let left = async {
            let left = cluster.sunsubscribe(channel).await;
            left.map_err(|cause| error::from_redis(cause, Stage::Connecting))
        };
        let left = bounded(ROUND_TRIP, left).await;
        self.confirmed.forget(channel);
        left
    }

    /// The server has said that this is listened to.
    pub(super) fn entered(&self, channel: &str) {
        self.confirmed.note(channel);
    }

    /// The server has said that this is listened to no longer. Answers whether that was expected, however
    /// early the client has answered.
    pub(super) fn left(&self, channel: &str) -> bool {
        self.leaving().remove(channel)
    }

    fn leaving(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
