//! From calling `put` on one connection to the event of a watch on another: the least that a release
//! and its wake-up can cost.

use crate::raw;
use etcd_client::{Client, WatchStream};
use locker_testkit::figures::Failure;
use std::time::{Duration, Instant};

const KEY: &str = "bench-watched";

pub(crate) struct Messages {
    writer: Client,
    /// Kept: the stream ends with it.
    _watcher: Client,
    events: WatchStream,
}

impl Messages {
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        let writer = raw::connect(url).await?;
        let mut watcher = raw::connect(url).await?;
        let mut events = watcher.watch(KEY, None).await?;
        // That the watch was created.
        events.message().await?;
        Ok(Self {
            writer,
            _watcher: watcher,
            events,
        })
    }

    /// How long one took.
    pub(crate) async fn one(&mut self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let Self { writer, events, .. } = self;
        let (put, event) = tokio::join!(writer.put(KEY, "x", None), async {
            events.message().await.map(|event| (event, Instant::now()))
        });
        put?;
        let (event, arrived) = event?;
        event.ok_or("the watch has ended")?;
        Ok(arrived.saturating_duration_since(begun))
    }

    /// How long one took, and another write behind it: that of who was told.
    pub(crate) async fn hand_off(&mut self) -> Result<Duration, Failure> {
        let told = self.one().await?;
        let begun = Instant::now();
        self.writer.put("bench-bare", "x", None).await?;
        Ok(told + begun.elapsed())
    }
}
