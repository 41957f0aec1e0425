//! The raw arguments, as they were typed, and the rules of single ones. What they mean together is decided
//! where they are used.

use crate::exit::{Exit, TABLE};
use crate::failure::Failure;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use locker_core::Key;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Runs a command under a lock: at most once at a time in a whole cluster.
///
/// `locker run KEY -- CMD` takes the lock KEY, runs CMD, and releases the lock when the last process
/// that CMD has started is gone. If this machine stops being the owner, CMD is ended first.
///
/// The environment variable `LOCKER_LOG` filters what the library logs to stderr, in the syntax of
/// `RUST_LOG`: "warn", unless it says otherwise.
#[derive(Debug, Parser)]
#[command(name = "locker", version, after_help = TABLE, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// What was typed, the name of the program first.
    ///
    /// # Errors
    ///
    /// What clap says of it, unless that would repeat a URL that stands where none is expected.
    pub(crate) fn understand(typed: &[OsString]) -> Result<Self, clap::Error> {
        Self::try_parse_from(typed).map_err(|error| {
            let text = error.to_string();
            let is_repeated = |word: &OsString| {
                let word = word.to_string_lossy();
                let url = word.split_once("://").map(|(_, rest)| rest);
                url.is_some_and(|rest| !rest.is_empty() && text.contains(rest))
            };
            if !error.use_stderr() || !typed.iter().any(is_repeated) {
                return error;
            }
            Self::command().error(
                ErrorKind::UnknownArgument,
                "a URL stands where none is expected; it is not repeated here, because it may hold a \
                 password",
            )
        })
    }
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The store, as a URL: sqlite:PATH, redis://…, postgres://…, etcd://…
    ///
    /// Without it: what `LOCKER_STORE` says, else a file in the user's state directory.
    #[arg(long, value_name = "URL", global = true, conflicts_with = "store_file")]
    pub(crate) store: Option<String>,
    /// A file that holds the store's URL, for a URL with a password.
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) store_file: Option<PathBuf>,
    /// Locks of one namespace do not see those of another.
    #[arg(long, value_name = "NAME", global = true, default_value = "locker")]
    pub(crate) namespace: String,
    /// Prints JSON, one value per line, for programs.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command under a lock.
    Run(Run),
    /// List the locks that are held.
    List {
        /// Only keys that begin like this.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Show who holds a lock. Exits 1 if it is free.
    Show {
        /// The lock.
        key: String,
    },
    /// List the processes that hold or want locks.
    Ps,
    /// Wait until a lock is free, without taking it.
    Wait {
        /// How long: seconds, or "inf". Exits 75 when it is over.
        #[arg(short, long, value_name = "SECS", default_value = "inf", value_parser = patience)]
        wait: Patience,
        /// The lock.
        key: String,
    },
    /// Take a lock away from its owner.
    ///
    /// The owner is told and stops first; the lock is free when it has stopped, or is dead. Exits 1
    /// if the lock is not this owner's; then nothing was changed.
    Release {
        /// The lock.
        key: String,
        /// The owner hash, as `locker show` prints it.
        #[arg(long, value_name = "HASH")]
        owner: String,
        /// Delete the record at once, whatever the owner is doing: somebody else may start while
        /// it still runs.
        #[arg(long)]
        now: bool,
    },
    /// Prepare the store, where that is a step of its own (Postgres): create the schema, its tables and
    /// its functions, or bring them up to date.
    Migrate {
        /// Print what would be done in an empty store, and do nothing: for those who change their
        /// databases by other means.
        #[arg(long, conflicts_with = "check")]
        print: bool,
        /// Only say whether the store is ready. Exits 78 if it is not.
        #[arg(long)]
        check: bool,
    },
    /// Check the store and this machine, and say what is wrong.
    Doctor,
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// `locker run`.
#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
#[command(override_usage = "locker run [OPTIONS] KEY -- CMD [ARGS]...", after_help = TABLE)]
pub(crate) struct Run {
    /// Do not wait if the lock is held (the default).
    #[arg(short, long, conflicts_with = "wait")]
    pub(crate) nonblock: bool,
    /// Wait for the lock: seconds, with decimals, or "inf".
    #[arg(short, long, value_name = "SECS", value_parser = patience)]
    pub(crate) wait: Option<Patience>,
    /// Exit with this code if the lock is held by somebody else.
    #[arg(short = 'E', long, value_name = "N", default_value_t = Exit::BUSY.number())]
    pub(crate) conflict_exit_code: u8,
    /// Exit with this code if the lock was lost.
    #[arg(long, value_name = "N", default_value_t = Exit::LOST.number())]
    pub(crate) lost_exit_code: u8,
    /// If the lock is held by somebody else, exit 0 and say nothing.
    #[arg(short = 'q', long, conflicts_with = "conflict_exit_code")]
    pub(crate) skip: bool,
    /// A note for those who find the lock held: a ticket, a request, a user.
    #[arg(long, value_name = "TEXT")]
    pub(crate) trace: Option<String>,
    /// Keep the lock at least this long after it was acquired, even if the command ends sooner.
    ///
    /// For jobs that are shorter than the clocks of the machines that start them differ.
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub(crate) min_hold: Option<Duration>,
    /// From TERM to KILL, when the command or what it left behind has to end.
    #[arg(long, value_name = "SECS", default_value = "5", value_parser = seconds)]
    pub(crate) grace: Duration,
    /// End the command after this long, and exit 124.
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Let the command see the store: set `LOCKER_STORE` in its environment.
    #[arg(long)]
    pub(crate) pass_store: bool,
    /// How long a process that does not report counts as alive. All other times of liveness
    /// follow in proportion. Each process may choose for itself: others wait as long as it chose.
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    pub(crate) liveness_ttl: Duration,
    /// Say what happens.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// The lock, then "--", then the command and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_names = ["KEY", "-- CMD"],
        num_args = 1..
    )]
    pub(crate) key_and_command: Vec<OsString>,
}

/// For how long somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// So long.
    For(Duration),
    /// Without limit.
    Forever,
}

fn patience(text: &str) -> Result<Patience, String> {
    if text == "inf" {
        return Ok(Patience::Forever);
    }
    seconds(text).map(Patience::For)
}

/// Seconds with decimals.
fn seconds(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| "seconds are a number, with decimals if need be, up to 100 years".to_owned())
}

/// A key, by the rule of keys.
pub(crate) fn parse_key(text: &str) -> Result<Key, Failure> {
    Key::new(text).map_err(|error| {
        Failure::usage(error.to_string())
            .hint("a key is 1 to 512 bytes of UTF-8 without NUL, like \"reports/nightly\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn the_definition_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_end_at_the_key() {
        let cli = Cli::try_parse_from(["locker", "run", "-w", "1.5", "k", "--", "-n", "--", "x"]);
        let Command::Run(run) = cli.unwrap().command else {
            panic!("not run");
        };
        assert_eq!(run.key_and_command, ["k", "--", "-n", "--", "x"]);
        assert_eq!(run.wait, Some(Patience::For(Duration::from_millis(1500))));
    }

    #[test]
    fn seconds_are_refused_when_they_are_none() {
        for text in ["", "-1", "nan", "inf", "1e300", "5s"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
        assert_eq!(patience("inf"), Ok(Patience::Forever));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
    }

    const SECRET: &str = "hunter2";

    #[test]
    fn a_url_in_the_wrong_place_is_not_repeated() {
        for url in [
            format!("--store=redis://u:{SECRET}@h"),
            format!("postgres://h/db?user=u&password={SECRET}"),
        ] {
            let error = Cli::understand(&["locker".into(), "help".into(), url.into()]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnknownArgument);
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
        // The name of a role may be a word of the help.
        let typed = ["locker", "--store", "postgres://locker@h/db", "--help"];
        let help = Cli::understand(&typed.map(OsString::from)).unwrap_err();
        assert_eq!(help.kind(), ErrorKind::DisplayHelp);
    }

    /// One argument, or two that belong together.
    fn piece() -> impl Strategy<Value = Vec<OsString>> {
        const WORDS: [&str; 32] = [
            "run",
            "list",
            "show",
            "ps",
            "wait",
            "release",
            "migrate",
            "doctor",
            "completions",
            "man",
            "help",
            "--",
            "-",
            "k",
            "true",
            "--json",
            "--namespace",
            "--store-file",
            "-w",
            "-n",
            "-q",
            "-E",
            "--wait=1",
            "--owner",
            "--now",
            "--print",
            "--check",
            "--min-hold",
            "--grace",
            "--timeout",
            "--help",
            "--version",
        ];
        let store = format!("redis://u:{SECRET}@h");
        prop_oneof![
            4 => select(&WORDS[..]).prop_map(|word| vec![word.into()]),
            1 => Just(vec!["--store".into(), store.clone().into()]),
            1 => Just(vec![format!("--store={store}").into()]),
            1 => "\\PC{0,6}".prop_map(|text| vec![text.into()]),
            1 => "-?[0-9]{0,30}(\\.[0-9]{0,3})?(e[0-9]{1,3})?".prop_map(|text| vec![text.into()]),
            1 => vec(any::<u8>(), 0..4).prop_map(|bytes| vec![OsString::from_vec(bytes)]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is typed is understood or refused; and what is said about it shows no password.
        #[test]
        fn any_arguments_are_a_command_or_an_error_without_the_password(
            pieces in vec(piece(), 0..8),
        ) {
            let mut arguments: Vec<OsString> = vec!["locker".into()];
            arguments.extend(pieces.into_iter().flatten());
            if let Err(error) = Cli::understand(&arguments) {
                let text = error.to_string();
                prop_assert!(!text.is_empty());
                prop_assert!(!text.contains(SECRET), "{arguments:?}: {text}");
            }
        }
    }
}
