//! One server in its folder.

use crate::Missing;
use crate::servers::port::Port;
use crate::servers::program;
use crate::servers::supervisor::Supervisor;
use crate::servers::wait::wait_while;
use nix::unistd::{Uid, User, chown};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// What to do when there is no server.
const INSTALL: &str = "apt-get install postgresql (version 13 or later), or set \
                       LOCKER_TEST_POSTGRES_URL";
/// How long a server may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What a server says when sessions of the one before it are not quite gone.
const STILL_ATTACHED: &str = "pre-existing shared memory block";
/// How many ports are tried when somebody else was faster.
const PORT_TRIES: u32 = 5;

/// A server holds a segment of shared memory by which another finds out that the data are in use. One
/// that is killed leaves it, and the system has room for some thousands. Its number is in the seventh
/// line of the file of the server's process.
const FAREWELL: &str = r#"
sed -n 7p "$folder/data/postmaster.pid" | { read -r _ id && ipcrm -m "$id"; }
"#;

/// The role that the server asks for a password; all others are trusted on this machine.
pub const GUARDED: &str = "guarded";

/// A server alone.
#[derive(Debug)]
pub struct Server {
    supervisor: Supervisor,
    port: Port,
    programs: PathBuf,
    url: String,
}

impl Server {
    /// Starts a server with these lines in its configuration, and waits until it answers. The role
    /// `postgres` may do everything.
    ///
    /// # Errors
    ///
    /// [`Missing`] when it cannot be had.
    pub fn start(lines: &[&str]) -> Result<Self, Missing> {
        let mut last = io::Error::other("no port");
        for _ in 0..PORT_TRIES {
            let mut server = Self::prepare(lines)?;
            match server.start_again() {
                Ok(()) => return Ok(server),
                Err(error) if !server.log().contains("Address already in use") => {
                    return Err(unavailable(&error));
                }
                Err(error) => last = error,
            }
        }
        Err(unavailable(&last))
    }

    fn prepare(lines: &[&str]) -> Result<Self, Missing> {
        let server = prepared(|programs, data| {
            let initdb = programs.join("initdb").to_string_lossy().into_owned();
            let mut words = vec![initdb, "-D".to_owned(), data.to_string_lossy().into_owned()];
            // Nothing of it is worth a disk's work.
            let options = "-U postgres -E UTF8 --no-locale --auth=trust --no-sync";
            words.extend(options.split(' ').map(str::to_owned));
            words
        })?;
        admit(&server.data(), lines).map_err(|error| unavailable(&error))?;
        Ok(server)
    }

    /// Starts the server, after killing the one that runs, and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it ended by itself, or does not answer.
    pub fn start_again(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let started = self.start_once();
            // A session that was killed lets go of the memory only when it runs once more, and the
            // server refuses to start beside it.
            let is_too_early = |error: &io::Error| error.to_string().contains(STILL_ATTACHED);
            if begun.elapsed() > START_LIMIT || !started.as_ref().is_err_and(is_too_early) {
                return started;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn start_once(&mut self) -> io::Result<()> {
        self.kill_children();
        self.supervisor.start()?;
        let number = self.port.number().to_string();
        let ready = self
            .programs
            .join("pg_isready")
            .to_string_lossy()
            .into_owned();
        let ready = [
            ready,
            "-q".into(),
            "-h".into(),
            "127.0.0.1".into(),
            "-p".into(),
            number,
        ];
        let is_ready = || run(&ready).map(|_| ()).map_err(|error| error.to_string());
        let started = wait_while(|| self.supervisor.runs(), START_LIMIT, is_ready);
        started.map_err(|why| io::Error::other(format!("{why}\n{}", self.log())))
    }

    /// Kills the server as a power failure would, and returns when it is gone.
    ///
    /// # Errors
    ///
    /// When its supervisor has ended.
    pub fn kill(&mut self) -> io::Result<()> {
        self.kill_children();
        self.supervisor.kill()
    }

    /// Variables of its environment, from its next start on.
    ///
    /// # Errors
    ///
    /// When they cannot be written down.
    pub fn environment(&self, variables: &[(&str, &str)]) -> io::Result<()> {
        self.supervisor.environment(variables)
    }

    /// Its URL, as the role that may do everything.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its URL as another role.
    pub fn url_as(&self, role: &str, password: Option<&str>) -> String {
        let password = password.map_or_else(String::new, |password| format!(":{password}"));
        let number = self.port.number();
        format!("postgres://{role}{password}@127.0.0.1:{number}/postgres")
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its folder, which goes with it.
    pub fn folder(&self) -> &Path {
        self.supervisor.folder()
    }

    /// The process of its postmaster, while it is meant to run.
    pub fn pid(&self) -> Option<i32> {
        self.supervisor.pid()
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        self.supervisor.output()
    }

    /// Runs this SQL as the role that may do everything, and answers what it prints, unaligned.
    ///
    /// # Errors
    ///
    /// What the server says against it.
    pub fn sql(&self, text: &str) -> io::Result<String> {
        let psql = self.programs.join("psql").to_string_lossy().into_owned();
        let words = [
            psql.as_str(),
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            text,
            &self.url,
        ];
        let output = run(&words.map(str::to_owned))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// Where the binaries are: Debian keeps each version in a folder of its own, out of `PATH`.
fn programs() -> Result<PathBuf, Missing> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let version = path.file_name()?.to_str()?.parse().ok()?;
            Some((version, path.join("bin")))
        })
        .filter(|(_, path)| path.join("initdb").is_file())
        .collect();
    versions.sort();
    match versions.pop() {
        Some((_, path)) => Ok(path),
        None => {
            let initdb = program::find("initdb", INSTALL)?;
            Ok(initdb.parent().map(Path::to_path_buf).unwrap_or_default())
        }
    }
}

/// As whom the server runs, if not as ourselves.
pub(super) fn user() -> Result<Option<User>, Missing> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Ok(Some(user)) = User::from_name(name) {
            return Ok(Some(user));
        }
    }
    Err(Missing::new(
        "the server does not run as root, and there is no other user",
        INSTALL,
    ))
}

/// A command line that gives up root's rights first. The change of user takes back what the
/// supervisor arranged for its death, so it is arranged again.
pub(super) fn as_user(user: Option<&User>, command: &[&str]) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    if let Some(user) = user {
        words.extend([
            "setpriv".to_owned(),
            format!("--reuid={}", user.uid),
            format!("--regid={}", user.gid),
            "--clear-groups".to_owned(),
            "--pdeathsig=KILL".to_owned(),
        ]);
    }
    words.extend(command.iter().map(|word| (*word).to_owned()));
    words
}

/// A server in a folder of its own whose data are made by this command, and which is not started.
pub(super) fn prepared(data: impl FnOnce(&Path, &Path) -> Vec<String>) -> Result<Server, Missing> {
    let (user, programs) = (user()?, programs()?);
    let made = || -> io::Result<(tempfile::TempDir, Port)> {
        let folder = tempfile::Builder::new().prefix("locker-pg-").tempdir()?;
        if let Some(user) = &user {
            chown(folder.path(), Some(user.uid), Some(user.gid))?;
        }
        Ok((folder, Port::free()?))
    };
    let (folder, port) = made().map_err(|error| unavailable(&error))?;
    let path = folder.path().join("data");
    let command = data(&programs, &path);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    run(&as_user(user.as_ref(), &command)).map_err(|error| unavailable(&error))?;
    place(&path, folder.path(), &port).map_err(|error| unavailable(&error))?;
    let (postgres, data) = (programs.join("postgres"), path.to_string_lossy());
    let postgres = postgres.to_string_lossy();
    let command = as_user(user.as_ref(), &[&*postgres, "-D", &*data]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let number = port.number();
    let supervisor = Supervisor::new(folder, &command)?;
    let left = supervisor.farewell(FAREWELL);
    left.map_err(|error| unavailable(&error))?;
    Ok(Server {
        supervisor,
        port,
        programs,
        url: format!("postgres://postgres@127.0.0.1:{number}/postgres"),
    })
}

/// Where it listens, and where it keeps what its sessions share: with its data, which go when it goes.
/// Of two such lines the last one counts.
fn place(data: &Path, folder: &Path, port: &Port) -> io::Result<()> {
    let (number, folder) = (port.number(), folder.display());
    let lines = format!(
        "\nlisten_addresses = '127.0.0.1'\nport = {number}\nunix_socket_directories = '{folder}'\n\
         log_min_messages = warning\ndynamic_shared_memory_type = mmap\n"
    );
    append(&data.join("postgresql.conf"), &lines)
}

/// Whom it asks for a password, and the lines of its caller.
fn admit(data: &Path, lines: &[&str]) -> io::Result<()> {
    append(&data.join("postgresql.conf"), &(lines.join("\n") + "\n"))?;
    let file = data.join("pg_hba.conf");
    let guarded = format!("host all {GUARDED} 127.0.0.1/32 scram-sha-256\n");
    let text = guarded + &fs::read_to_string(&file)?;
    fs::write(file, text)
}

fn append(file: &Path, lines: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)? + lines;
    fs::write(file, text)
}

pub(super) fn run(words: &[String]) -> io::Result<Output> {
    let Some((program, rest)) = words.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let output = Command::new(program).args(rest).current_dir("/").output()?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(io::Error::other(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        )))
    }
}

pub(super) fn unavailable(error: &io::Error) -> Missing {
    Missing::new(format!("no Postgres server starts: {error}"), INSTALL)
}
