//! What commands print: tables for people, one JSON value per line for programs.
//!
//! The JSON fields are documented in the README and only ever added to.

use crate::exit::Exit;
use crate::failure::Failure;
use locker_core::backend::{Held, Liveness};
use locker_core::{LockData, ProcessData, Timestamp};
use serde::Serialize;
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

/// Where a command prints, and how.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    /// Who read our output has seen enough.
    closed: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            closed: false,
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One line.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(|out| writeln!(out, "{text}"))
    }

    /// One JSON value.
    pub(crate) fn value(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        self.line(&text)
    }

    /// Rows under headings, in columns as wide as their widest cell.
    pub(crate) fn table(&mut self, headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut widths: Vec<usize> = headings.iter().map(|text| text.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let headings = headings.iter().map(ToString::to_string).collect();
        for row in std::iter::once(&headings).chain(rows) {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Whoever reads may stop reading at any time; that is no error of ours.
    fn write(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match write(&mut out).and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::new(
                Exit::INTERNAL,
                format!("cannot write to stdout: {error}"),
            )),
            Ok(()) => Ok(()),
        }
    }
}

/// A held lock, as `--json` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct LockView<'a> {
    key: &'a str,
    held: bool,
    owner: &'a str,
    process: &'a str,
    host: &'a str,
    pid: u32,
    trace: Option<&'a str>,
    token: u64,
    acquired_at: String,
    extended_at: String,
    /// Whether the holder's process lives; null if the store cannot tell.
    alive: Option<bool>,
    /// Whether an operator has asked for the lock back; null if that was not asked.
    asked_back: Option<bool>,
    /// In how long, at the earliest, it can become free without its owner's doing; null if that was
    /// not asked.
    free_in_ms: Option<u64>,
}

impl<'a> LockView<'a> {
    pub(crate) fn new(held: &'a Held) -> Self {
        Self {
            alive: alive(held),
            asked_back: Some(held.marked),
            free_in_ms: u64::try_from(held.free_in.as_millis()).ok(),
            ..Self::of_data(&held.data)
        }
    }

    /// What is known about a lock from its record alone.
    pub(crate) fn of_data(data: &'a LockData) -> Self {
        let process = data.process();
        Self {
            key: data.owner.key().as_str(),
            held: true,
            owner: data.owner.as_str(),
            process: process.as_str(),
            host: process.host().as_str(),
            pid: process.pid(),
            trace: data.trace().map(locker_core::Trace::as_str),
            token: data.token.get(),
            acquired_at: rfc3339(data.acquired_at),
            extended_at: rfc3339(data.extended_at),
            alive: None,
            asked_back: None,
            free_in_ms: None,
        }
    }
}

/// Whether the holder lives, if the store could tell.
pub(crate) fn alive(held: &Held) -> Option<bool> {
    match held.holder {
        Some(Liveness::Alive(_)) => Some(true),
        Some(Liveness::Dead) => Some(false),
        Some(Liveness::Unknown) | None => None,
    }
}

/// A living process, as `--json` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessView<'a> {
    process: &'a str,
    host: &'a str,
    pid: u32,
    alive_at: String,
}

impl<'a> ProcessView<'a> {
    pub(crate) fn new(data: &'a ProcessData) -> Self {
        Self {
            process: data.process.as_str(),
            host: data.process.host().as_str(),
            pid: data.process.pid(),
            alive_at: rfc3339(data.alive_at),
        }
    }
}

/// Who holds a lock, in words: owner, host, process, since when, why, under which token.
pub(crate) fn holder(data: &LockData) -> Vec<(&'static str, String)> {
    let process = data.process();
    let mut rows = vec![
        ("owner", printable(data.owner.as_str())),
        ("host", printable(process.host().as_str())),
        ("pid", process.pid().to_string()),
        ("since", since(data.acquired_at)),
    ];
    if let Some(trace) = data.trace() {
        rows.push(("trace", printable(trace.as_str())));
    }
    rows.push(("token", data.token.get().to_string()));
    rows
}

/// A text that anybody may have chosen, without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.escape_debug().to_string()
    } else {
        text.to_owned()
    }
}

/// A moment and how long ago it was, by this machine's wall clock.
pub(crate) fn since(at: Timestamp) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let age = now.saturating_sub(Duration::from_micros(at.as_micros()));
    format!("{} ({} ago)", rfc3339(at), duration(age))
}

/// A duration as people say it.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// A moment in UTC. (The calendar by Howard Hinnant's `civil_from_days`.)
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let micros = at.as_micros();
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (days, second) = (seconds / 86400 + 719_468, seconds % 86400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_printed_in_utc() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_709_251_199_999_999, "2024-02-29T23:59:59.999999Z"),
            (1_767_225_600_000_000, "2026-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_micros(micros)), text);
        }
    }

    #[test]
    fn what_others_chose_cannot_command_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J"), "a\\u{1b}[2J");
        assert_eq!(printable("grün"), "grün");
    }

    #[test]
    fn durations_are_said_in_two_units() {
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(duration(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
