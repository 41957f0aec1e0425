//! One commit that is on the disk, and then NOTIFY on one connection until LISTEN hears it on another:
//! the least that a release and its wake-up can cost.

use locker_testkit::figures::Failure;
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{ConnectOptions, PgConnection};
use std::time::{Duration, Instant};

pub(crate) struct Messages {
    teller: PgConnection,
    listener: PgListener,
}

impl Messages {
    pub(crate) async fn open(url: &str) -> Result<Self, Failure> {
        let options: PgConnectOptions = url.parse()?;
        let mut teller = options.connect().await?;
        let table = "CREATE TABLE IF NOT EXISTS told (n bigint); INSERT INTO told VALUES (0)";
        sqlx::raw_sql(table).execute(&mut teller).await?;
        let mut listener = PgListener::connect(url).await?;
        listener.listen("bench_bare").await?;
        Ok(Self { teller, listener })
    }

    /// How long one took.
    pub(crate) async fn one(&mut self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let Self { teller, listener } = self;
        let write = sqlx::query("UPDATE told SET n = n + 1");
        write.execute(&mut *teller).await?;
        let notify = sqlx::query("SELECT pg_notify('bench_bare', 'x')");
        let (told, heard) = tokio::join!(notify.execute(&mut *teller), async {
            listener.recv().await.map(|_| Instant::now())
        });
        told?;
        Ok(heard?.saturating_duration_since(begun))
    }

    /// How long one took, and another commit behind it: that of who was told.
    pub(crate) async fn hand_off(&mut self) -> Result<Duration, Failure> {
        let told = self.one().await?;
        let begun = Instant::now();
        let take = sqlx::query("UPDATE told SET n = n + 1");
        take.execute(&mut self.teller).await?;
        Ok(told + begun.elapsed())
    }
}
