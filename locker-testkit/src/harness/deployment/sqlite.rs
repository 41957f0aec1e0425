//! One SQLite file, many processes of one machine.

use super::{Cell, Data, Deployment, Site};
use crate::harness::cases::{common, random, sqlite, troubles, waiters};
use crate::harness::fault::Fault;
use crate::harness::network::Network;
use crate::harness::times::Times;
use locker_core::Connect;
use locker_sqlite::Sqlite;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The embedded store.
#[derive(Debug)]
pub(super) struct SqliteFile;

const NO_NETWORK: &str =
    "there is no connection: every process opens the file itself, and a file cannot be half open";
const NO_SERVER: &str = "there is no server: every process runs SQLite itself";

impl Deployment for SqliteFile {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn times(&self) -> Times {
        Times::SCALED
    }

    fn cell(&self, fault: Fault) -> Cell {
        match fault.0 {
            0 => Cell::Run(common::NONE),
            1 => Cell::Run(common::KILLED),
            2 => Cell::Run(common::TERMINATED),
            3 => Cell::Run(common::PAUSED_SHORTLY),
            4 => Cell::Run(common::PAUSED_LONG),
            5 => Cell::Run(common::REPORTER_STALLED),
            6 => Cell::Run(common::RUNTIME_BLOCKED),
            7 => Cell::Run(troubles::CUT_OFF),
            8 => Cell::Run(troubles::REPLIES_LOST),
            9 => Cell::Run(troubles::ONE_REPLY_LOST),
            10..=12 => Cell::DoesNotApply(NO_NETWORK),
            13 => Cell::Run(troubles::STANDSTILL),
            14 => Cell::Run(troubles::ALL_RESTARTED),
            15 => Cell::Run(sqlite::GONE),
            16 => Cell::DoesNotApply("there is one file, and no replica of it"),
            17 => Cell::DoesNotApply(
                "these are states of a Redis server; a full disk and a read-only file are cases of \
                 the store's own tests",
            ),
            18 => Cell::DoesNotApply("there are no shards: one file holds all locks"),
            19 | 20 => Cell::DoesNotApply(NO_SERVER),
            21 => Cell::DoesNotApply("there is no quorum: one file, one machine"),
            22 => Cell::DoesNotApply(
                "the store judges by the boot clock, which nobody can step; the wall clock only \
                 makes tokens, and they never go back: see the store's own tests of tokens",
            ),
            23 => Cell::Run(sqlite::WAKE_UPS),
            24 => Cell::Run(sqlite::CORRUPT),
            25 => Cell::ShownBy(
                "`no_future_leaves_anything_behind_wherever_it_is_dropped`, the cancellation sweep",
            ),
            26 => Cell::Run(common::FORKED),
            27 => Cell::Run(waiters::HERD),
            28 => Cell::Run(random::PAIRS),
            29 => Cell::Run(troubles::LANDS_LATE),
            30 => Cell::DoesNotApply(
                "there are no row locks: a writer locks the whole file, which is F13",
            ),
            31 => Cell::Run(waiters::FIRST_LEAVES),
            _ => Cell::DoesNotApply("there is no such fault"),
        }
    }

    fn is_short(&self, _fault: Fault, _variant: &str) -> bool {
        true
    }

    fn killed_is_taken_over(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn open(&self, folder: &Path, program: &Path) -> Result<Box<dyn Site>, Box<dyn Error>> {
        Ok(Box::new(File {
            folder: folder.to_owned(),
            program: program.to_owned(),
            hog: None,
        }))
    }

    fn connect(&self, url: &str, times: Times) -> Result<Arc<dyn Connect>, Box<dyn Error>> {
        let path = url.strip_prefix("sqlite:").ok_or("not a file")?;
        // A step must not outlive its caller's patience.
        let busy = times.timing().request_timeout * 2 / 3;
        Ok(Arc::new(Sqlite::new(path).busy_timeout(busy)))
    }
}

/// The database of a case.
pub fn database(folder: &Path) -> PathBuf {
    folder.join("locks.db")
}

#[derive(Debug)]
struct File {
    folder: PathBuf,
    program: PathBuf,
    hog: Option<Child>,
}

impl Site for File {
    fn url(&self) -> String {
        format!("sqlite:{}", database(&self.folder).display())
    }

    fn url_for(&self, _worker: usize) -> String {
        self.url()
    }

    fn network(&self, _worker: usize) -> Option<&Network> {
        None
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn logs(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn restart(&mut self, _down: Duration, _data: Data) -> Result<(), Box<dyn Error>> {
        Err(NO_SERVER.into())
    }

    fn stand_still(&mut self) -> Result<(), Box<dyn Error>> {
        let mut hog = Command::new(&self.program)
            .arg("hog")
            .arg(database(&self.folder))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = hog.stdout.take().ok_or("a hog without a pipe")?;
        self.hog = Some(hog);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        match line.trim() {
            HELD => Ok(()),
            said => Err(format!("the hog said {said:?}").into()),
        }
    }

    fn go_on(&mut self) {
        if let Some(mut hog) = self.hog.take() {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }

    fn empty(&mut self) -> Result<(), Box<dyn Error>> {
        let sql = "BEGIN IMMEDIATE; DELETE FROM locks; DELETE FROM processes; COMMIT";
        execute(&self.folder, sql)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.go_on();
    }
}

const HELD: &str = "held";

/// A process that holds SQLite's write lock until it is killed, or whoever started it has gone.
#[expect(clippy::print_stdout, reason = "it says when it holds the lock")]
pub fn hog(path: &Path) -> ExitCode {
    let done = attack(path, async |connection| {
        sqlx::raw_sql("BEGIN IMMEDIATE")
            .execute(&mut *connection)
            .await?;
        println!("{HELD}");
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        Ok(())
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Changes the database past the locker.
pub fn execute(folder: &Path, sql: &str) -> Result<(), Box<dyn Error>> {
    let sql = sql.to_owned();
    attack(&database(folder), async move |connection| {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await?;
        Ok(())
    })
}

fn attack(
    path: &Path,
    how: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(), sqlx::Error>,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(5));
    runtime.block_on(async {
        let mut connection = options.connect().await?;
        how(&mut connection).await
    })?;
    Ok(())
}
