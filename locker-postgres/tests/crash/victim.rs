//! The process that is killed: this very program, started again.

use distributed_locker::{AcquireOptions, HeartbeatPolicy, Locker};
use locker_postgres::{CrashDetection, Postgres};
use locker_testkit::servers::postgres::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

/// The word by which the program becomes one.
const WORD: &str = "--hold-a-lock-until-killed";

/// A process that owns a lock. Dropped, it is killed.
pub(crate) struct Victim {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    key: String,
}

impl Victim {
    /// Starts it, and waits until it owns the lock.
    pub(crate) async fn start(server: &Server, by: CrashDetection, key: &str) -> Self {
        let url = match by {
            CrashDetection::Session { grace } => format!(
                "{}?crash_detection=session&grace={}ms",
                server.url(),
                grace.as_millis()
            ),
            _ => server.url().to_owned(),
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([WORD, &url, key])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, lines) = tokio::task::spawn_blocking(move || (lines.next(), lines))
            .await
            .unwrap();
        assert_eq!(said.unwrap().unwrap(), "acquired");
        Self {
            child,
            lines,
            key: key.to_owned(),
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// It says so when it loses its lock, and ends.
    pub(crate) fn must_not_have_lost_it(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "it said {:?}", self.lines.next());
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The URL and the key, if this process is to be one.
pub(crate) fn asked_for(args: &[String]) -> Option<(String, String)> {
    match args {
        [word, url, key] if word == WORD => Some((url.clone(), key.clone())),
        _ => None,
    }
}

/// Owns the lock until the process is killed, or the lock is lost.
pub(crate) async fn hold(url: &str, key: &str) {
    let store = Postgres::from_url(url).unwrap();
    let locker = Locker::builder(Arc::new(store)).start().await.unwrap();
    let options = AcquireOptions::new().heartbeat(HeartbeatPolicy::Automatic);
    let acquired = locker.acquire(key, options).await.unwrap();
    let guard = acquired.guard().unwrap();
    println!("acquired");
    println!("lost: {:?}", guard.lost().await);
}
