//! What the server counts of the locker's statements.

use locker_testkit::figures::Failure;
use locker_testkit::servers::postgres::Server;
use std::collections::BTreeMap;
use std::fmt;

/// Calls, and the server's time for them in milliseconds, by function.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<String, (u64, f64)>);

impl Told {
    pub(crate) fn reset(server: &Server) -> Result<(), Failure> {
        server.sql("SELECT pg_stat_statements_reset()")?;
        Ok(())
    }

    pub(crate) fn by(server: &Server) -> Result<Self, Failure> {
        let text = server.sql(
            "SELECT substring(query FROM '\"locker\"\\.(\\w+)'), calls, total_exec_time \
             FROM pg_stat_statements WHERE query LIKE '%\"locker\".%'",
        )?;
        let mut told = Self::default();
        for line in text.lines() {
            if let [name, calls, time] = line.split('|').collect::<Vec<_>>()[..] {
                let entry = told.0.entry(name.to_owned()).or_default();
                entry.0 += calls.parse::<u64>()?;
                entry.1 += time.parse::<f64>()?;
            }
        }
        Ok(told)
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        let difference = self.0.iter().map(|(name, (calls, time))| {
            let (had, took) = before.0.get(name).copied().unwrap_or_default();
            (name.clone(), (calls - had, time - took))
        });
        Self(difference.filter(|(_, (calls, _))| *calls > 0).collect())
    }

    pub(crate) fn claims_and_releases(&self) -> u64 {
        let names = ["try_create", "release", "release_and_try_create"];
        let calls = names.iter().filter_map(|name| self.0.get(*name));
        calls.map(|(calls, _)| calls).sum()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.0.iter();
        let calls = calls.map(|(name, (calls, time))| format!("{calls} {name} ({time:.0} ms)"));
        f.write_str(&calls.collect::<Vec<_>>().join(", "))
    }
}
