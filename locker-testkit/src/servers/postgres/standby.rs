//! A hot standby: a copy of a server that follows it, asynchronously unless its primary waits for it.

use super::server::{Server, prepared, unavailable};
use crate::Missing;
use crate::servers::wait::wait_until;
use std::io;
use std::time::Duration;

/// How long a standby may take to have what its primary has.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(15);

impl Server {
    /// Starts a standby of a server that runs, and waits until it has everything.
    ///
    /// # Errors
    ///
    /// [`Missing`] when it cannot be had.
    pub fn standby_of(primary: &Self) -> Result<Self, Missing> {
        let port = primary.port().to_string();
        let mut standby = prepared(|programs, data| {
            let copy = programs
                .join("pg_basebackup")
                .to_string_lossy()
                .into_owned();
            let mut words = vec![copy, "-D".to_owned(), data.to_string_lossy().into_owned()];
            let options = "-h 127.0.0.1 -U postgres -X stream -R -c fast --no-sync -p";
            words.extend(options.split(' ').map(str::to_owned));
            words.push(port);
            words
        })?;
        let started = standby.start_again();
        started
            .and_then(|()| standby.catch_up_with(primary))
            .map_err(|error| unavailable(&error))?;
        Ok(standby)
    }

    /// Waits until this standby has replayed what its primary has written so far.
    ///
    /// # Errors
    ///
    /// When it takes too long.
    pub fn catch_up_with(&self, primary: &Self) -> io::Result<()> {
        let written = primary.sql("SELECT pg_current_wal_lsn()")?;
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        self.says("t", &question)
    }

    /// From now on this standby hears nothing from its primary, which is not told.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn stop_following(&self) -> io::Result<()> {
        self.sql("ALTER SYSTEM SET primary_conninfo = ''")?;
        self.sql("SELECT pg_reload_conf()")?;
        self.says("0", "SELECT count(*) FROM pg_stat_wal_receiver")
    }

    /// Waits until the answer to a question is this one.
    fn says(&self, expected: &str, question: &str) -> io::Result<()> {
        wait_until(CATCH_UP_LIMIT, || match self.sql(question) {
            Ok(said) if said == expected => Ok(()),
            Ok(said) => Err(format!("{question} says {said}")),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Makes this standby a primary, and waits until it is one.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn promote(&self) -> io::Result<()> {
        match self.sql("SELECT pg_promote(true, 15)")?.as_str() {
            "t" => Ok(()),
            said => Err(io::Error::other(format!("the promotion said {said}"))),
        }
    }
}
