//! A store of its own for each test, the real binary, and a look at the processes below it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
pub mod server;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take that has no limit of its own, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A folder, and a store of its own: a file in it, or a namespace of a server.
pub struct Home {
    dir: tempfile::TempDir,
    store: Option<String>,
    options: Vec<String>,
}

impl Home {
    /// On the embedded store.
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            store: None,
            options: Vec::new(),
        }
    }

    /// On a store that is somewhere else.
    pub fn on(url: &str) -> Self {
        Self {
            store: Some(url.to_owned()),
            ..Self::new()
        }
    }

    /// On the Redis server that the tests share, in a namespace of its own.
    #[cfg(feature = "redis")]
    pub fn redis() -> Self {
        let server = locker_testkit::servers::redis::shared::server();
        let server = server.unwrap_or_else(|missing| panic!("{missing}"));
        Self::on(server.url()).in_namespace_of_its_own()
    }

    /// On the Postgres server that the tests share, in a schema of its own, which is there.
    #[cfg(feature = "postgres")]
    pub fn postgres() -> Self {
        let server = locker_testkit::servers::postgres::shared();
        let server = server.unwrap_or_else(|missing| panic!("{missing}"));
        let home = Self::on(server).in_namespace_of_its_own();
        home.run(&["migrate"]).expect(0);
        home
    }

    /// On the etcd server that the tests share, in a namespace of its own.
    #[cfg(feature = "etcd")]
    pub fn etcd() -> Self {
        let server = locker_testkit::servers::etcd::shared::server();
        let server = server.unwrap_or_else(|missing| panic!("{missing}"));
        Self::on(server.url()).in_namespace_of_its_own()
    }

    pub fn in_namespace_of_its_own(mut self) -> Self {
        let name = self.dir.path().file_name().unwrap().to_string_lossy();
        self.options = vec![
            "--namespace".to_owned(),
            name.trim_start_matches('.').to_owned(),
        ];
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn url(&self) -> String {
        let file = || format!("sqlite:{}", self.path("locker.db").display());
        self.store.clone().unwrap_or_else(file)
    }

    /// The binary, on this store.
    pub fn locker(&self, arguments: &[&str]) -> Command {
        let mut command = with_default_signals(env!("CARGO_BIN_EXE_locker"));
        command
            .args(&self.options)
            .args(arguments)
            .env("LOCKER_STORE", self.url())
            .env_remove("LOCKER_LOG")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Running::of(self.locker(arguments).spawn().unwrap()).end()
    }

    /// `locker run` with options, of a shell script, on the key `k`.
    pub fn script(&self, options: &[&str], script: &str) -> Running {
        let arguments = [&["run"], options, &["k", "--", "sh", "-c", script]].concat();
        Running::of(self.locker(&arguments).spawn().unwrap())
    }

    /// The content of a file, once there is one.
    pub fn await_file(&self, name: &str) -> String {
        let path = self.path(name);
        await_that(&format!("{name} is written"), || {
            fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n'))
        });
        fs::read_to_string(&path).unwrap().trim().to_owned()
    }

    /// A process number that a script wrote into a file.
    pub fn await_pid(&self, name: &str) -> Pid {
        Pid::from_raw(self.await_file(name).parse().unwrap())
    }

    pub fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.path(name)).map_or(0, |text| text.lines().count())
    }
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    #[track_caller]
    pub fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }
}

/// A process of the binary. It is killed when a test fails.
pub struct Running {
    child: Option<Child>,
}

impl Running {
    pub fn of(child: Child) -> Self {
        Self { child: Some(child) }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().unwrap().id().cast_signed())
    }

    pub fn keeper(&self) -> Pid {
        await_some("a keeper", || children(self.pid()).first().copied())
    }

    /// The command, once it has become what it was to be.
    pub fn command(&self) -> Pid {
        let keeper = self.keeper();
        await_some("a command", || {
            let command = children(keeper).first().copied()?;
            let arguments = fs::read(format!("/proc/{command}/cmdline")).ok()?;
            // Not yet: still the keeper's own copy, or the stage before the command.
            let staged = arguments.starts_with(b"locker\0__");
            (!arguments.is_empty() && !staged).then_some(command)
        })
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for the end of it.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        let mut child = self.child.take().unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > 2 * PATIENCE {
                let _ = child.kill();
                panic!("the wrapper does not end");
            }
            sleep(Duration::from_millis(1));
        };
        let mut outcome = Outcome {
            status,
            stdout: String::new(),
            stderr: String::new(),
        };
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut outcome.stdout).unwrap();
        }
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut outcome.stderr).unwrap();
        }
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program that ignores nothing. What is ignored when the tests are started (by `nohup`, by `&` in a
/// script) would stay ignored in it.
pub fn with_default_signals(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", program]);
    command
}

pub fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            let pids: Vec<_> = list
                .split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect();
            pids
        })
        .map(Pid::from_raw)
        .collect()
}

/// The letter by which the kernel shows a process's state; none if there is no such process.
pub fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether there is such a process and it is no zombie.
pub fn lives(pid: Pid) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

#[track_caller]
pub fn await_that(what: &str, condition: impl Fn() -> bool) {
    await_some(what, || condition().then_some(()));
}

#[track_caller]
pub fn await_some<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(1));
    }
}

pub fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}
