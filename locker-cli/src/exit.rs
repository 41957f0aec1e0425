//! The exit codes of `locker`, their table, and nothing else.

use std::process::ExitCode;

/// How this process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(u8);

impl Exit {
    pub(crate) const SUCCESS: Self = Self(0);
    /// `show`: the lock is free. `release`: nothing was changed.
    pub(crate) const NO: Self = Self(1);
    pub(crate) const USAGE: Self = Self(64);
    pub(crate) const UNAVAILABLE: Self = Self(69);
    pub(crate) const INTERNAL: Self = Self(70);
    pub(crate) const BUSY: Self = Self(75);
    /// What `--lost-exit-code` moves.
    pub(crate) const LOST: Self = Self(76);
    pub(crate) const DENIED: Self = Self(77);
    pub(crate) const CONFIG: Self = Self(78);
    pub(crate) const TIMEOUT: Self = Self(124);
    pub(crate) const CANNOT_EXECUTE: Self = Self(126);
    pub(crate) const NOT_FOUND: Self = Self(127);

    /// A code that the user chose, or the command's own.
    pub(crate) const fn code(code: u8) -> Self {
        Self(code)
    }

    /// The number itself.
    pub(crate) const fn number(self) -> u8 {
        self.0
    }

    /// The convention of shells for an end by a signal.
    pub(crate) fn signal(number: i32) -> Self {
        Self(u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128)))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

/// The table, as `--help`, the man page and, word for word, the README show it.
pub(crate) const TABLE: &str = "\
Exit codes:
  0        success; with `run`, the command's own success
  1..255   with `run`, the command's own code
  1        `show`: the lock is free; `release`: nothing was changed
  64       usage: the arguments make no sense
  69       the store cannot be reached, its folder is missing or read-only
  70       an error inside locker
  75       busy: somebody else holds the lock (moved by -E)
  76       lost: the lock was not held to the end; wins over the command's code
           (moved by --lost-exit-code)
  77       not authorised at the store, or its file is read-only for this user
  78       configuration: a store file that is foreign, newer or unreadable, a server
           of another kind than its URL says or with a certificate that is not
           accepted, a record that cannot be read, or a store that is not compiled in
  124      ended by --timeout
  126      the command cannot be executed
  127      the command was not found
  128+N    the command, or the wait for the lock, was ended by signal N
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_code() {
        for exit in [
            Exit::SUCCESS,
            Exit::NO,
            Exit::USAGE,
            Exit::UNAVAILABLE,
            Exit::INTERNAL,
            Exit::BUSY,
            Exit::LOST,
            Exit::DENIED,
            Exit::CONFIG,
            Exit::TIMEOUT,
            Exit::CANNOT_EXECUTE,
            Exit::NOT_FOUND,
        ] {
            let row = format!("\n  {} ", exit.0);
            assert!(TABLE.contains(&row), "no row for {}", exit.0);
        }
    }

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(Exit::signal(15), Exit(143));
        assert_eq!(Exit::signal(-1), Exit(255));
    }
}
