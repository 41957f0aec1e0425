//! A test program that runs many cases at a time, for stores on which waiting is what takes long:
//! where the shortest TTL is whole seconds, a case sleeps nearly all the time, and the test runner
//! of the language runs as many at a time as the machine has processors.
//!
//! It is the `main` of a test target with `harness = false`, and understands what one gives to such a
//! target: parts of names, `--exact`, `--skip NAME`, `--list` and `--test-threads N`.
//!
//! ```no_run
//! use locker_testkit::memory::MemoryFixture;
//! use locker_testkit::program::Program;
//!
//! fn main() -> std::process::ExitCode {
//!     Program::new(24)
//!         .conformance::<MemoryFixture>("contract")
//!         .main()
//! }
//! ```

#![allow(clippy::print_stdout, reason = "it is a program")]

use crate::cases::CASES;
use crate::fixture::Fixture;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// One test: its name, and what panics if it fails.
struct Test {
    name: String,
    run: Box<dyn Fn() + Send + Sync>,
}

/// Tests, and how many of them run at a time.
pub struct Program {
    tests: Vec<Test>,
    at_a_time: usize,
}

/// What the words behind the name of a test program ask for.
#[derive(Debug, Default)]
struct Wanted {
    parts: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    at_a_time: Option<usize>,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: usize,
    failed: Vec<String>,
    filtered_out: usize,
}

impl Program {
    /// No test yet; so many are to run at a time.
    pub fn new(at_a_time: usize) -> Self {
        Self {
            tests: Vec::new(),
            at_a_time,
        }
    }

    /// One more test. It fails by a panic.
    #[must_use]
    pub fn test(mut self, name: impl Into<String>, run: impl Fn() + Send + Sync + 'static) -> Self {
        self.tests.push(Test {
            name: name.into(),
            run: Box::new(run),
        });
        self
    }

    /// Every conformance case on this fixture, as `prefix::theme::name`.
    #[must_use]
    pub fn conformance<F: Fixture>(self, prefix: &str) -> Self {
        CASES.iter().fold(self, |program, case| {
            program.test(format!("{prefix}::{}", case.name), move || {
                crate::run::<F>(async move |of| case.run(of).await);
            })
        })
    }

    /// Every behaviour on this fixture, as `prefix::theme::name`.
    #[cfg(feature = "driver")]
    #[must_use]
    pub fn behaviours<F: Fixture>(self, prefix: &str) -> Self {
        let all = crate::behaviour::all::<F>().into_iter();
        all.fold(self, |program, (name, run)| {
            program.test(format!("{prefix}::{name}"), run)
        })
    }

    /// Runs what the arguments of this process ask for.
    pub fn main(self) -> ExitCode {
        let wanted = match Wanted::from_args(std::env::args().skip(1)) {
            Ok(wanted) => wanted,
            Err(word) => {
                println!("this test program does not understand {word}");
                return ExitCode::from(64);
            }
        };
        if wanted.list {
            for test in self.tests.iter().filter(|test| wanted.wants(&test.name)) {
                println!("{}: test", test.name);
            }
            return ExitCode::SUCCESS;
        }
        if self.run(&wanted).failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(101)
        }
    }

    fn run(self, wanted: &Wanted) -> Outcome {
        let began = Instant::now();
        let all = self.tests.len();
        let chosen = self.tests.into_iter();
        let tests: VecDeque<Test> = chosen.filter(|test| wanted.wants(&test.name)).collect();
        let at_a_time = wanted.at_a_time.unwrap_or(self.at_a_time).max(1);
        println!("\nrunning {} tests, {at_a_time} at a time", tests.len());
        let outcome = Mutex::new(Outcome {
            filtered_out: all - tests.len(),
            ..Outcome::default()
        });
        let waiting = Mutex::new(tests);
        thread::scope(|scope| {
            for _ in 0..at_a_time {
                scope.spawn(|| {
                    while let Some(test) = next(&waiting) {
                        let passed = test.passes();
                        locked(&outcome).note(test.name, passed);
                    }
                });
            }
        });
        let mut outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome.failed.sort();
        if !outcome.failed.is_empty() {
            println!("\nfailures:\n    {}", outcome.failed.join("\n    "));
        }
        let Outcome {
            passed,
            failed,
            filtered_out,
        } = &outcome;
        let word = if failed.is_empty() { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; \
             {filtered_out} filtered out; finished in {:.2}s\n",
            failed.len(),
            began.elapsed().as_secs_f64()
        );
        outcome
    }
}

impl Test {
    /// Runs it on a thread of its name, which a panic tells.
    fn passes(&self) -> bool {
        let run = || catch_unwind(AssertUnwindSafe(&self.run)).is_ok();
        thread::scope(|scope| {
            let named = thread::Builder::new().name(self.name.clone());
            let running = named.spawn_scoped(scope, run);
            running.is_ok_and(|running| running.join().unwrap_or(false))
        })
    }
}

impl Outcome {
    fn note(&mut self, name: String, passed: bool) {
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if passed {
            self.passed += 1;
        } else {
            self.failed.push(name);
        }
    }
}

impl Wanted {
    /// The first word that says nothing to it is the error.
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut wanted = Self::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--exact" => wanted.exact = true,
                "--list" => wanted.list = true,
                // Nothing is captured, and nothing is ignored; the format is this one.
                "--nocapture" | "--no-capture" | "--show-output" | "--include-ignored"
                | "--quiet" | "-q" => {}
                "--format" | "--color" => drop(args.next()),
                "--skip" => wanted.skipped.extend(args.next()),
                "--test-threads" => wanted.at_a_time = Some(number(args.next(), &arg)?),
                word => match word.split_once('=') {
                    Some(("--test-threads", count)) => {
                        wanted.at_a_time = Some(number(Some(count.to_owned()), &arg)?);
                    }
                    Some(("--skip", name)) => wanted.skipped.push(name.to_owned()),
                    Some(("--format" | "--color", _)) => {}
                    _ if word.starts_with('-') => return Err(arg),
                    _ => wanted.parts.push(arg),
                },
            }
        }
        Ok(wanted)
    }

    fn wants(&self, name: &str) -> bool {
        let fits = |part: &String| {
            if self.exact {
                part == name
            } else {
                name.contains(part.as_str())
            }
        };
        (self.parts.is_empty() || self.parts.iter().any(fits)) && !self.skipped.iter().any(fits)
    }
}

fn number(text: Option<String>, word: &str) -> Result<usize, String> {
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| word.to_owned())
}

fn next(waiting: &Mutex<VecDeque<Test>>) -> Option<Test> {
    locked(waiting).pop_front()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.tests.iter().map(|test| &test.name);
        f.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::Barrier;

    fn wanted(args: &[&str]) -> Wanted {
        Wanted::from_args(args.iter().map(|&arg| arg.to_owned())).unwrap()
    }

    fn some() -> Program {
        Program::new(2)
            .test("a::passes", || {})
            .test("a::fails", || {
                std::panic::resume_unwind(Box::new("on purpose"))
            })
            .test("b::passes", || {})
    }

    #[test]
    fn what_panics_has_failed_and_takes_nobody_along() {
        let outcome = some().run(&wanted(&[]));
        assert_eq!((outcome.passed, outcome.filtered_out), (2, 0));
        assert_eq!(outcome.failed, ["a::fails"]);
    }

    #[test]
    fn names_choose_as_they_do_everywhere() {
        for (args, passed, failed) in [
            (&["a::"][..], 1, 1),
            (&["passes"], 2, 0),
            (&["b::passes", "--exact"], 1, 0),
            (&["passes", "--exact"], 0, 0),
            (&["--skip", "fails", "--nocapture"], 2, 0),
            (&["--skip=a::"], 1, 0),
        ] {
            let outcome = some().run(&wanted(args));
            let counted = (outcome.passed, outcome.failed.len());
            assert_eq!(counted, (passed, failed), "{args:?}");
            assert_eq!(outcome.filtered_out, 3 - passed - failed, "{args:?}");
        }
        assert!(Wanted::from_args(["--bench".to_owned()].into_iter()).is_err());
    }

    /// They would wait for each other for ever otherwise.
    #[test]
    fn so_many_run_at_a_time() {
        let all = Arc::new(Barrier::new(8));
        let program = (0..8).fold(Program::new(2), |program, number| {
            let all = Arc::clone(&all);
            program.test(format!("{number}"), move || {
                let _leader = all.wait();
            })
        });
        let outcome = program.run(&wanted(&["--test-threads", "8"]));
        assert_eq!(outcome.passed, 8);
    }
}
