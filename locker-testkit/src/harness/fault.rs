//! What is done, and what must happen: one row for every fault.

use serde::Serialize;
use std::fmt;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Fault(pub u8);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "F{:02}", self.0)
    }
}

impl Fault {
    /// Every row.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..ROWS.len()).filter_map(|row| u8::try_from(row).ok().map(Self))
    }

    /// What is done.
    pub fn title(self) -> &'static str {
        ROWS.get(usize::from(self.0)).map_or("", |row| row.0)
    }

    /// What must happen.
    ///
    /// HOLD: no guard lost. STOP: the owner's guard is invalid and its job cancelled before the hard
    /// deadline. TAKE≤x: another owns the lock within x. FENCED: late writes are refused by their
    /// token. ERR: a typed error, and no orphan.
    pub fn expected(self) -> &'static str {
        ROWS.get(usize::from(self.0)).map_or("", |row| row.1)
    }
}

const ROWS: &[(&str, &str)] = &[
    ("none", "HOLD"),
    ("kill -9 of the owner", "TAKE≤T+H+0.5 s (embedded: 0.2 s)"),
    ("SIGTERM of the owner", "TAKE≤0.1 s"),
    ("SIGSTOP of the owner for 0.2 T", "HOLD"),
    (
        "SIGSTOP of the owner for 3 T",
        "TAKE meanwhile; then STOP, FENCED",
    ),
    ("the Reporter alone stalled", "STOP, then TAKE"),
    ("the job's runtime blocked for 3 T", "HOLD"),
    ("owner cut off from the store for 3 T", "STOP, TAKE"),
    ("requests pass, replies are lost, for 3 T", "STOP"),
    (
        "one reply lost; one request that lands late",
        "no orphan, no double grant, HOLD",
    ),
    ("connection reset every 0.1 to 0.5 T", "HOLD"),
    ("half-open connection", "HOLD below T, else STOP"),
    ("0 to 0.1 T of delay each way", "HOLD"),
    (
        "the server stands still for 0.2 T / 3 T",
        "HOLD / all STOP; grants resume",
    ),
    (
        "server restart, data kept",
        "HOLD below T, else STOP; grants resume",
    ),
    (
        "the store is emptied under running owners",
        "STOP; tokens grow",
    ),
    (
        "promotion of a replica that missed writes",
        "as the store's README says; tokens grow",
    ),
    ("error states of a server", "transparent, or ERR"),
    (
        "cluster: moved slots, a node killed",
        "HOLD where the shard lives, else ERR",
    ),
    (
        "server ends sessions, refuses transactions",
        "HOLD or ERR, no orphan",
    ),
    ("a connection pooler in front", "HOLD"),
    (
        "quorum: leader change, member killed, quorum lost",
        "HOLD, HOLD, STOP",
    ),
    (
        "the server's clock stepped by an hour",
        "as the store's README says",
    ),
    (
        "wake-ups dropped, duplicated, forged, flooded",
        "only latency changes",
    ),
    (
        "corrupt record, newer format, 1 MiB record",
        "ERR(Corrupt) for that key alone",
    ),
    (
        "every public future dropped at every await",
        "no orphan, nothing leaks",
    ),
    (
        "fork of the owner; a cloned identity",
        "the child can use neither guards nor connections",
    ),
    (
        "500 waiters, 100 releases",
        "at most 2 attempts per release",
    ),
    ("two random faults at a time", "V1 = V2 = 0"),
    (
        "bytes delivered after the client closed",
        "refused; no orphan",
    ),
    ("a row held by another transaction", "other keys HOLD"),
    (
        "the woken waiter leaves or is killed",
        "the next within 50 ms",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_those_of_the_specification() {
        assert_eq!(Fault::all().count(), 32);
        assert_eq!(
            Fault::all().last().map(|fault| fault.to_string()),
            Some("F31".to_owned())
        );
    }
}
