//! What the tests of the store share: a store in a folder of its own, names, a second writer, and
//! child processes, which are this very test binary run again.
// Every test binary uses its own part, and tests may unwrap.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use locker_core::backend::{Claim, Claimed, Held, Side};
use locker_core::{
    Backend, BackendError, Connect, Host, Key, OwnerHash, ProcessHash, StoreTime, Token,
};
use locker_sqlite::Sqlite;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const LONG: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("locks.db")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How many descriptors this process has in the folder.
    pub fn descriptors(&self) -> usize {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let paths = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        paths.filter(|path| path.starts_with(self.folder())).count()
    }

    /// Waits until everything that was dropped has closed its files.
    pub async fn closed(&self) {
        until(async || self.descriptors() == 0).await;
    }

    pub async fn open(&self) -> Arc<dyn Backend> {
        open(&self.path()).await.unwrap()
    }

    /// The store, as one who waits for another's write for as long as it takes.
    pub async fn patient(&self) -> Arc<dyn Backend> {
        let store = Sqlite::new(self.path()).busy_timeout(LONG);
        store.connect(Side::Caller).await.unwrap()
    }

    /// A connection beside the store's, for looking and for spoiling.
    pub async fn raw(&self) -> SqliteConnection {
        raw(&self.path()).await
    }
}

pub async fn open(path: &Path) -> Result<Arc<dyn Backend>, BackendError> {
    Sqlite::new(path).connect(Side::Caller).await
}

pub async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .connect()
        .await
        .unwrap()
}

pub async fn sql(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

pub async fn number(connection: &mut SqliteConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// A process of this machine with a nonce of its own.
pub fn process(nonce: u128) -> ProcessHash {
    ProcessHash::new(&Host::new("here").unwrap(), std::process::id(), nonce)
}

pub fn owner(name: &str, process: &ProcessHash, seq: u64) -> OwnerHash {
    OwnerHash::new(&key(name), process, seq, None)
}

pub fn claim(owner: &OwnerHash) -> Claim {
    Claim {
        owner: owner.clone(),
        ttl: LONG,
        not_after: StoreTime::from_micros(u64::MAX),
    }
}

pub fn granted(claimed: Claimed) -> Token {
    match claimed {
        Claimed::Granted(token) => token,
        other => panic!("not granted: {other:?}"),
    }
}

pub fn held(claimed: Claimed) -> Held {
    match claimed {
        Claimed::Held(held) => held,
        other => panic!("not held: {other:?}"),
    }
}

/// A living process of this store.
pub async fn born(store: &Arc<dyn Backend>, nonce: u128) -> ProcessHash {
    let process = process(nonce);
    store.create_process(&process, LONG).await.unwrap();
    process
}

/// Polls until something holds, for ten seconds at most; answers how long it took.
pub async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(10), "it never held");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    start.elapsed()
}

const ROLE: &str = "LOCKER_SQLITE_TEST_ROLE";
const ARGUMENT: &str = "LOCKER_SQLITE_TEST_ARGUMENT";

/// The role of this process, if it is a child.
pub fn role() -> Option<(String, PathBuf)> {
    Some((
        std::env::var(ROLE).ok()?,
        std::env::var_os(ARGUMENT)?.into(),
    ))
}

/// Runs this test binary again in a role: its test `child` looks at [`role`].
pub fn command(role: &str, argument: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(ARGUMENT, argument)
        .stdout(Stdio::piped());
    command
}

/// A child that has said that it is ready.
pub struct Ready {
    pub child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl From<Child> for Ready {
    /// A child that need not say so.
    fn from(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }
}

impl Ready {
    pub fn spawn(role: &str, argument: &Path) -> Self {
        let mut ready = Self::from(command(role, argument).spawn().unwrap());
        ready.wait_for("ready");
        ready
    }

    /// Waits for a line that contains a word, and answers the line.
    pub fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert!(
                self.lines.read_line(&mut line).unwrap() > 0,
                "the child ended without saying {word:?}"
            );
        }
        line
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
