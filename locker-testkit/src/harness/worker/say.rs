//! How a worker writes down what happens.

use crate::harness::event::{Event, Record};
use crate::harness::times::micros;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Writes events to stdout. A line is one write to a pipe, so it is whole even if the next thing
/// that happens to the process is its death; and no lock is held meanwhile that a forked child
/// would wait for.
#[derive(Debug, Clone)]
pub(super) struct Say {
    out: Arc<File>,
    worker: usize,
}

impl Say {
    pub(super) fn new(worker: usize) -> io::Result<Self> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self {
            out: Arc::new(out),
            worker,
        })
    }

    /// It happened now.
    pub(super) fn event(&self, event: Event) {
        self.event_at(micros(), event);
    }

    /// It happened then.
    pub(super) fn event_at(&self, at: u64, event: Event) {
        let record = Record {
            at,
            worker: self.worker,
            pid: std::process::id(),
            event,
        };
        if let Ok(mut line) = serde_json::to_vec(&record) {
            line.push(b'\n');
            // A harness that has gone needs no line.
            let _ = (&*self.out).write_all(&line);
        }
    }

    /// From now on, notes when the machine did not let this process run.
    pub(super) fn watch_gaps(&self) -> io::Result<()> {
        const PACE: Duration = Duration::from_millis(10);
        const WORTH_TELLING: u64 = 30_000;
        let say = self.clone();
        let watch = move || {
            let mut last = micros();
            loop {
                std::thread::sleep(PACE);
                let now = micros();
                if now - last > WORTH_TELLING {
                    say.event_at(now, Event::Gap { from: last });
                }
                last = now;
            }
        };
        std::thread::Builder::new()
            .name("gaps".to_owned())
            .spawn(watch)?;
        Ok(())
    }
}
