//! What `tracing` is told, as a program writes it down.

#![allow(clippy::unwrap_used, reason = "a test")]

use distributed_locker::{AcquireOptions, Locker, Run, memory};
use std::io;
use std::sync::{Arc, Mutex};
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
