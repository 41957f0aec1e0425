//! What a soak found, for people.

use super::{Cycles, Resources};
use std::fmt;
use std::time::Duration;

/// What a soak found.
#[derive(Debug, Clone)]
pub struct Report {
    /// How long it ran.
    pub took: Duration,
    /// How many cycles there were.
    pub cycles: u64,
    /// How many of them got their lock.
    pub grants: u64,
    /// How many requests failed.
    pub errors: u64,
    /// What the process needed at one tenth; nothing, if the run ended before that.
    pub early: Option<Resources>,
    /// What it needed at the end.
    pub late: Resources,
    /// What must not have happened.
    pub violations: Vec<String>,
}

impl Report {
    /// What is known now.
    pub fn of(cycles: &Cycles, took: Duration, early: Option<Resources>, late: Resources) -> Self {
        let (done, grants) = cycles.done();
        Self {
            took,
            cycles: done,
            grants,
            errors: cycles.errors(),
            early,
            late,
            violations: cycles.violations(),
        }
    }

    /// Everything that speaks against the locker; nothing, if all is well.
    pub fn findings(&self) -> Vec<String> {
        let grown = self.early.map(|early| self.late.grown_since(&early));
        let mut findings = self.violations.clone();
        findings.extend(grown.unwrap_or_default());
        if self.grants == 0 {
            findings.push("nothing was ever granted".to_owned());
        }
        findings
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cycles, grants, errors) = (self.cycles, self.grants, self.errors);
        let took = self.took.as_secs();
        writeln!(
            f,
            "{cycles} cycles in {took} s, {grants} grants, {errors} errors"
        )?;
        match &self.early {
            Some(early) => writeln!(f, "at one tenth: {early}")?,
            None => writeln!(f, "it ended before one tenth: nothing to compare with")?,
        }
        writeln!(f, "at the end:   {}", self.late)?;
        let findings = self.findings();
        if findings.is_empty() {
            return write!(f, "nothing was found");
        }
        for finding in &findings {
            writeln!(f, "FOUND: {finding}")?;
        }
        write!(f, "{} findings", findings.len())
    }
}
