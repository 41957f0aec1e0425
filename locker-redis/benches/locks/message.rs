//! From calling PUBLISH on one connection to the message on another; and the lock that the other one
//! takes thereupon.

use futures_util::StreamExt;
use locker_testkit::figures::Failure;
use redis::aio::{MultiplexedConnection, PubSub};
use std::time::{Duration, Instant};

pub(crate) struct Messages {
    publisher: MultiplexedConnection,
    subscriber: PubSub,
}

impl Messages {
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        let client = redis::Client::open(url)?;
        let mut subscriber = client.get_async_pubsub().await?;
        subscriber.subscribe("bench-raw").await?;
        Ok(Self {
            publisher: client.get_multiplexed_async_connection().await?,
            subscriber,
        })
    }

    /// How long one took.
    pub(crate) async fn one(&mut self) -> Result<Duration, Failure> {
        let mut messages = self.subscriber.on_message();
        let begun = Instant::now();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg("bench-raw").arg("x");
        let told = publish.exec_async(&mut self.publisher);
        let (told, message) = tokio::join!(told, async {
            messages.next().await.map(|_| Instant::now())
        });
        told?;
        let arrived = message.ok_or("the subscription has ended")?;
        Ok(arrived.saturating_duration_since(begun))
    }

    /// How long one took, and the smallest lock there is behind it.
    pub(crate) async fn hand_off(&mut self) -> Result<Duration, Failure> {
        let told = self.one().await?;
        let begun = Instant::now();
        let mut take = redis::cmd("SET");
        take.arg("bench-bare")
            .arg("x")
            .arg("NX")
            .arg("PX")
            .arg(300_000);
        let taken: redis::Value = take.query_async(&mut self.publisher).await?;
        let took = begun.elapsed();
        if taken != redis::Value::Okay {
            return Err(format!("the bare client got {taken:?}").into());
        }
        let mut give_back = redis::cmd("DEL");
        give_back
            .arg("bench-bare")
            .exec_async(&mut self.publisher)
            .await?;
        Ok(told + took)
    }
}
