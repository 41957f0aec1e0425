//! What goes wrong, told in one way: what happened, what is known about the lock, what to do.

use crate::exit::Exit;
use locker_core::{BackendError, Effect, ErrorKind};
use serde_json::json;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};

/// A failure, and the exit code that stands for it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    what: String,
    lock: Option<String>,
    hint: Option<String>,
}

impl Failure {
    /// What happened, as a sentence without a full stop. It never contains a secret.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            lock: None,
            hint: None,
        }
    }

    /// Arguments that make no sense. No store was touched.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::USAGE, what)
            .lock("nothing was asked of any store, and no lock is held")
            .hint("`locker --help` explains the arguments")
    }

    /// What is known about the lock.
    pub(crate) fn lock(mut self, known: impl Into<String>) -> Self {
        self.lock = Some(known.into());
        self
    }

    /// What to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failed request of somebody who wants the lock for itself.
    pub(crate) fn backend(doing: &str, error: &BackendError) -> Self {
        let (exit, hint) = match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy => (
                Exit::UNAVAILABLE,
                "check that the store is there, then try again; `locker doctor` looks closer",
            ),
            ErrorKind::Denied => (
                Exit::DENIED,
                "check the user, the password and the rights at the store",
            ),
            ErrorKind::Corrupt => (
                Exit::CONFIG,
                "`locker show KEY` and `locker doctor` tell more; only an operator can help",
            ),
            ErrorKind::Rejected | ErrorKind::Config => (
                Exit::CONFIG,
                "check --store, --namespace and LOCKER_STORE; `locker doctor` looks closer",
            ),
        };
        let lock = match error.effect() {
            Effect::NotApplied => "nothing was changed, and the lock is not held",
            Effect::Unknown => {
                "the request may have had an effect; it ends with this process, within the \
                 liveness TTL"
            }
        };
        Self::new(exit, format!("{doing}: {}", chain(error)))
            .lock(lock)
            .hint(hint)
    }

    /// The same of somebody who only looks.
    pub(crate) fn of_a_look(doing: &str, error: &BackendError) -> Self {
        Self::backend(doing, error).lock("nothing was changed, and nothing is known about any lock")
    }

    /// The same of an operator, who takes a lock from somebody else.
    pub(crate) fn of_a_release(doing: &str, error: &BackendError) -> Self {
        Self::backend(doing, error).lock(match error.effect() {
            Effect::NotApplied => "nothing was changed",
            Effect::Unknown => {
                "it may have been released, or asked back; `locker show KEY` tells how it stands"
            }
        })
    }

    /// Writes it for programs, in one line.
    pub(crate) fn tell_json(&self, mut out: impl Write) -> io::Result<()> {
        let (exit, what, lock, hint) = (self.exit.number(), &self.what, &self.lock, &self.hint);
        let value = json!({ "error": what, "exit": exit, "lock": lock, "hint": hint });
        writeln!(out, "{value}")
    }

    /// Writes it for people.
    pub(crate) fn tell(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "locker: {}", self.what)?;
        if let Some(lock) = &self.lock {
            writeln!(out, "  lock: {lock}")?;
        }
        if let Some(hint) = &self.hint {
            writeln!(out, "  hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::INTERNAL, format!("an unexpected error: {error}"))
            .lock("unknown; if it was held, it ends with this process")
    }
}

impl From<nix::Error> for Failure {
    fn from(error: nix::Error) -> Self {
        io::Error::from(error).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// An error and its causes in one line, each said once.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_exit_code() {
        for (kind, exit) in [
            (ErrorKind::Unavailable, Exit::UNAVAILABLE),
            (ErrorKind::Timeout, Exit::UNAVAILABLE),
            (ErrorKind::Busy, Exit::UNAVAILABLE),
            (ErrorKind::Denied, Exit::DENIED),
            (ErrorKind::Rejected, Exit::CONFIG),
            (ErrorKind::Corrupt, Exit::CONFIG),
            (ErrorKind::Config, Exit::CONFIG),
        ] {
            let error = BackendError::new(kind, Effect::NotApplied, "it did not work");
            let failure = Failure::backend("cannot look", &error);
            assert_eq!(failure.exit, exit);
            let mut text = Vec::new();
            failure.tell(&mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("cannot look: it did not work"), "{text}");
            assert!(
                text.contains("  lock: ") && text.contains("  hint: "),
                "{text}"
            );
        }
    }

    /// Only who wanted the lock for itself knows that it does not hold it.
    #[test]
    fn who_looks_says_nothing_about_the_lock_and_who_releases_says_how_it_may_stand() {
        let told = |failure: Failure| {
            let mut text = Vec::new();
            failure.tell(&mut text).unwrap();
            String::from_utf8(text).unwrap()
        };
        for effect in [Effect::NotApplied, Effect::Unknown] {
            let error = BackendError::new(ErrorKind::Timeout, effect, "no answer");
            let text = told(Failure::of_a_look("cannot look", &error));
            assert!(text.contains("nothing is known"), "{text}");
            let text = told(Failure::of_a_release("not confirmed", &error));
            let may_be_done = text.contains("may have been released");
            assert_eq!(may_be_done, effect == Effect::Unknown, "{text}");
            assert!(!text.contains("ends with this process"), "{text}");
        }
    }

    #[test]
    fn a_cause_that_is_repeated_is_said_once() {
        let cause = BackendError::new(ErrorKind::Config, Effect::NotApplied, "no such folder");
        let error = BackendError::new(ErrorKind::Config, Effect::NotApplied, "a: no such folder")
            .with_source(cause);
        assert_eq!(chain(&error), "a: no such folder");
    }
}
