//! What a server counts of the statements that its clients send.

use crate::Missing;
use crate::servers::postgres::Server;
use crate::servers::postgres::server::unavailable;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

/// What a server needs in its configuration to count. What functions do inside is not a statement of a
/// client's.
const LINES: [&str; 2] = [
    "shared_preload_libraries = 'pg_stat_statements'",
    "pg_stat_statements.track = top",
];

impl Server {
    /// A server that counts the statements of its clients: see [`statements`](Self::statements).
    ///
    /// # Errors
    ///
    /// [`Missing`] when it cannot be had.
    pub fn start_counting(lines: &[&str]) -> Result<Self, Missing> {
        let server = Self::start(&[lines, &LINES[..]].concat())?;
        let made = server.sql("CREATE EXTENSION pg_stat_statements");
        made.map_err(|error| unavailable(&error))?;
        Ok(server)
    }

    /// All statements of its clients since it began to count. The counters are never reset: what ran
    /// between a look and a reset would be lost.
    ///
    /// # Errors
    ///
    /// When it does not count, or does not answer.
    pub fn statements(&self) -> io::Result<Statements> {
        // Without what a locker asks when it opens a connection.
        let text = self.sql(
            "SELECT calls, total_exec_time, coalesce(substring(query FROM '\"locker\"\\.(\\w+)'), \
             translate(query, E'\\n', ' ')) \
             FROM pg_stat_statements \
             WHERE query NOT LIKE '%\"locker\".about%' AND query NOT LIKE '%pg_stat_statements%' \
             AND query NOT LIKE '%locker.session%'",
        )?;
        let mut statements = Statements::default();
        for line in text.lines() {
            let (calls, time, name) = parts(line)
                .ok_or_else(|| io::Error::other(format!("no count of a statement: {line}")))?;
            let entry = statements.0.entry(name.to_owned()).or_default();
            entry.0 += calls;
            entry.1 += time;
        }
        Ok(statements)
    }
}

fn parts(line: &str) -> Option<(u64, Duration, &str)> {
    let mut parts = line.splitn(3, '|');
    let calls = parts.next()?.parse().ok()?;
    let milliseconds: f64 = parts.next()?.parse().ok()?;
    let time = Duration::try_from_secs_f64(milliseconds / 1e3).ok()?;
    Some((calls, time, parts.next()?))
}

/// How often each statement was sent, and the server's time for it. A statement that calls a function of
/// the schema `locker` goes by the function's name, any other by its text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statements(BTreeMap<String, (u64, Duration)>);

impl Statements {
    /// Looks again, and answers what has come since.
    ///
    /// # Errors
    ///
    /// As [`Server::statements`].
    pub fn look_again(&mut self, server: &Server) -> io::Result<Self> {
        let earlier = std::mem::replace(self, server.statements()?);
        Ok(self.since(&earlier))
    }

    /// What has come since this earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = self.0.iter().map(|(name, &(calls, time))| {
            let (had, took) = earlier.0.get(name).copied().unwrap_or_default();
            let (calls, time) = (calls.saturating_sub(had), time.saturating_sub(took));
            (name.clone(), (calls, time))
        });
        Self(difference.filter(|(_, (calls, _))| *calls > 0).collect())
    }

    /// How often this one was sent.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).map_or(0, |&(calls, _)| calls)
    }

    /// The calls of the schema's functions, as `2 release`, in the order of their names.
    #[must_use]
    pub fn functions(&self) -> Vec<String> {
        let functions = self.0.iter().filter(|(name, _)| !name.contains(' '));
        let calls = functions.map(|(name, (calls, _))| format!("{calls} {name}"));
        calls.collect()
    }

    /// Every statement that was sent, and how often.
    pub fn calls(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, (calls, _))| (&**name, *calls))
    }
}

impl fmt::Display for Statements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.0.iter();
        let each =
            each.map(|(name, (calls, time))| format!("{calls} {name} ({} ms)", time.as_millis()));
        f.write_str(&each.collect::<Vec<_>>().join(", "))
    }
}
