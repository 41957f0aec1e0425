//! What `tracing` is told, as a program writes it down.

#![allow(clippy::unwrap_used, reason = "a test")]

use distributed_locker::{AcquireOptions, Event, Force, Locker, Run, memory};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing::Level;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// Writes from now on down to this level.
    fn at(level: Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let written = Self::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (written, tracing::subscriber::set_default(subscriber))
    }

    /// The one line with this text.
    fn line(&self, text: &str) -> String {
        let written = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let mut lines = written.lines().filter(|line| line.contains(text));
        let line = lines.next().unwrap_or_else(|| panic!("{text}: {written}"));
        assert_eq!(lines.next(), None);
        line.to_owned()
    }
}

#[tokio::test]
async fn what_a_job_logs_bears_its_lock() {
    let (written, _subscribed) = Written::at(Level::DEBUG);
    let locker = Locker::builder(memory()).start().await.unwrap();
    let job = async |job: distributed_locker::Heartbeater| {
        tracing::info!("half of the work is done");
        (job.owner_hash().unwrap().clone(), job.token().unwrap())
    };
    let run = locker
        .acquire_and_run("k", AcquireOptions::new(), job)
        .await;
    let Ok(Run::Completed {
        value: (owner, token),
        ..
    }) = run
    else {
        panic!("{run:?}");
    };
    let fields = format!("{{key=k owner={owner} token={token}}}");
    assert!(
        written
            .line("half of the work")
            .contains(&format!("run{fields}"))
    );
    assert!(
        written
            .line("granted")
            .contains(&format!("acquire{fields}"))
    );
    assert!(
        written
            .line("released")
            .contains(&format!("release{fields}"))
    );
}

#[tokio::test]
async fn a_loss_is_written_with_its_owner_and_reason() {
    let (written, _subscribed) = Written::at(Level::WARN);
    let locker = Locker::builder(memory()).start().await.unwrap();
    let mut events = locker.events();
    let guard = locker.acquire("k", AcquireOptions::new()).await.unwrap();
    let guard = guard.guard().unwrap();
    let owner = guard.owner_hash();
    locker.force_release(owner, Force::Now).await.unwrap();
    assert!(guard.extend().await.is_err());
    let limit = Duration::from_secs(5);
    let event = tokio::time::timeout(limit, events.next()).await.unwrap();
    assert!(matches!(event, Some(Event::LostLock { .. })));
    // Another task writes it down.
    let is_written = async {
        while written.0.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(limit, is_written).await.unwrap();
    let line = written.line("a lock is lost");
    let fields = format!("key=k owner={owner} reason=its record is gone from the store");
    assert!(
        line.contains("WARN distributed_locker") && line.contains(&fields),
        "{line}"
    );
}
