//! One `redis-server` process in its folder: what every deployment is made of.

use super::setup::Setup;
use crate::Missing;
use crate::servers::certificates::Files;
use crate::servers::port::Port;
use crate::servers::program;
use crate::servers::supervisor::Supervisor;
use crate::servers::wait::wait_while;
use redis::{Client, Connection, ConnectionAddr, FromRedisValue, IntoConnectionInfo};
use redis::{RedisConnectionInfo, cmd};
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What to do when there is no server.
const INSTALL: &str = "apt-get install redis-server redis-sentinel (version 6.2 or later), or set \
     LOCKER_TEST_REDIS_URL, LOCKER_TEST_REDIS_SENTINEL_URL and LOCKER_TEST_REDIS_CLUSTER_URL";

/// How long a server may take to answer after its start.
pub(super) const START_LIMIT: Duration = Duration::from_secs(15);
/// How long a command of a test may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// How many ports are tried when somebody else was faster.
const PORT_TRIES: u32 = 5;

/// What a process is within its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A data server.
    Data,
    /// A sentinel, which keeps its state in its configuration file.
    Sentinel,
}

/// One server process. It is spoken to over a socket in its folder, which no proxy, no TLS and no
/// port stands before.
#[derive(Debug)]
pub struct Node {
    supervisor: Supervisor,
    port: Port,
    /// The cluster's own port, kept below those of clients as well.
    bus: Port,
    password: Option<String>,
    files: Option<Files>,
}

impl Node {
    /// Starts a server with these lines in its configuration, and waits until it answers.
    pub(super) fn start(
        setup: &Setup,
        kind: Kind,
        lines: impl Fn(&Port, &Port) -> Vec<String>,
    ) -> Result<Self, Missing> {
        let mut last = None;
        for _ in 0..PORT_TRIES {
            let mut node = Self::prepare(setup, kind, &lines)?;
            match node.start_again() {
                Ok(()) => return Ok(node),
                Err(error) if !node.log().contains("Address already in use") => {
                    return Err(unavailable(&error));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(unavailable(
            &last.unwrap_or_else(|| io::Error::other("no port")),
        ))
    }

    fn prepare(
        setup: &Setup,
        kind: Kind,
        lines: impl Fn(&Port, &Port) -> Vec<String>,
    ) -> Result<Self, Missing> {
        let (name, extra) = match kind {
            Kind::Data => ("redis-server", None),
            Kind::Sentinel => ("redis-sentinel", Some("--sentinel")),
        };
        let binary = program::find(name, INSTALL)?;
        let version = version(&binary)?;
        let prepared = || -> io::Result<(tempfile::TempDir, Port, Port)> {
            Ok((
                tempfile::Builder::new().prefix("locker-redis-").tempdir()?,
                Port::free()?,
                Port::free()?,
            ))
        };
        let (folder, port, bus) = prepared().map_err(|error| unavailable(&error))?;
        let path = folder.path().to_path_buf();
        let files = setup
            .certificates
            .as_ref()
            .map(|certificates| certificates.write_to(&path))
            .transpose()
            .map_err(|error| unavailable(&error))?;

        let mut config = own_lines(kind, &path, &port, version);
        config.extend(access_lines(setup, kind));
        if let Some(files) = &files {
            config.extend(tls_lines(setup, kind, &port, files));
        }
        config.extend(lines(&port, &bus));
        if kind == Kind::Data {
            config.extend(setup.lines.iter().cloned());
        }
        let file = path.join("redis.conf");
        fs::write(&file, config.join("\n") + "\n").map_err(|error| unavailable(&error))?;

        let (binary, file) = (binary.to_string_lossy(), file.to_string_lossy());
        let mut command = vec![binary.as_ref(), file.as_ref()];
        command.extend(extra);
        Ok(Self {
            supervisor: Supervisor::new(folder, &command)?,
            port,
            bus,
            password: setup.password.clone().filter(|_| kind == Kind::Data),
            files,
        })
    }

    /// The port on which clients find it.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The port of the cluster's own traffic.
    pub(super) fn bus_port(&self) -> u16 {
        self.bus.number()
    }

    /// Host and port. With TLS the host is a name, for a certificate to match.
    pub fn address(&self) -> String {
        let host = if self.files.is_some() {
            "localhost"
        } else {
            "127.0.0.1"
        };
        format!("{host}:{}", self.port())
    }

    /// The certificates that a client needs, when the server speaks TLS.
    pub fn certificates(&self) -> Option<&Files> {
        self.files.as_ref()
    }

    /// The folder with its configuration, its log and its data.
    pub fn folder(&self) -> &Path {
        self.supervisor.folder()
    }

    /// The process that runs, if one was started and not killed.
    pub fn pid(&self) -> Option<i32> {
        self.supervisor.pid()
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.folder().join("log")).unwrap_or_default();
        log + &self.supervisor.output()
    }

    /// Stops the process (SIGSTOP): connections stay, nothing is answered.
    pub fn pause(&self) -> io::Result<()> {
        self.supervisor.pause()
    }

    /// Lets a stopped process go on (SIGCONT).
    pub fn resume(&self) -> io::Result<()> {
        self.supervisor.resume()
    }

    /// Variables of its environment from the next start on, such as a library to preload.
    pub fn environment(&self, variables: &[(&str, &str)]) -> io::Result<()> {
        self.supervisor.environment(variables)
    }

    /// Kills the process (SIGKILL). Its data stay.
    pub fn kill(&mut self) -> io::Result<()> {
        self.supervisor.kill()
    }

    /// Starts the process on its data, after killing one that runs, and waits until it answers.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.supervisor.start()?;
        let answers = || {
            self.command(&["PING"])
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        let started = wait_while(|| self.supervisor.runs(), START_LIMIT, answers);
        started.map_err(|why| io::Error::other(format!("{why}\n{}", tail(&self.log()))))
    }

    /// Kills the process and starts it without its data. A node of a cluster stays in its cluster.
    pub fn start_empty(&mut self) -> io::Result<()> {
        self.supervisor.kill()?;
        for entry in fs::read_dir(self.folder())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("appendonly") && path.is_dir() {
                fs::remove_dir_all(&path)?;
            } else if name.ends_with(".rdb") || name.ends_with(".aof") {
                fs::remove_file(&path)?;
            }
        }
        self.start_again()
    }

    /// Empties it while it runs (FLUSHALL).
    pub fn empty(&self) -> io::Result<()> {
        self.command(&["FLUSHALL", "SYNC"]).map(drop)
    }

    /// A blocking connection with every right, past ports, proxies and TLS.
    pub fn admin(&self) -> io::Result<Connection> {
        let mut user = RedisConnectionInfo::default();
        if let Some(password) = &self.password {
            user = user.set_password(password);
        }
        let info = ConnectionAddr::Unix(self.folder().join("socket"))
            .into_connection_info()
            .map_err(io::Error::other)?
            .set_redis_settings(user);
        let client = Client::open(info).map_err(io::Error::other)?;
        let connection = client
            .get_connection_with_timeout(COMMAND_LIMIT)
            .map_err(io::Error::other)?;
        connection
            .set_read_timeout(Some(COMMAND_LIMIT))
            .map_err(io::Error::other)?;
        Ok(connection)
    }

    /// Sends one command and reads a text, a number or "OK" as text.
    pub fn command(&self, words: &[&str]) -> io::Result<String> {
        let value: redis::Value = self.query(words)?;
        Ok(match value {
            redis::Value::Int(number) => number.to_string(),
            redis::Value::Okay => "OK".to_owned(),
            redis::Value::Nil => String::new(),
            other => String::from_redis_value(other).map_err(io::Error::other)?,
        })
    }

    /// Sends one command and reads what the caller expects.
    pub fn query<T: FromRedisValue>(&self, words: &[&str]) -> io::Result<T> {
        let mut command = cmd(words.first().copied().unwrap_or_default());
        for word in words.iter().skip(1) {
            command.arg(word);
        }
        command.query(&mut self.admin()?).map_err(io::Error::other)
    }

    /// One field of `INFO`.
    pub fn info(&self, section: &str, field: &str) -> io::Result<String> {
        let text: String = self.query(&["INFO", section])?;
        let found = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| *name == field);
        let (_, value) = found.ok_or_else(|| io::Error::other(format!("INFO has no {field}")))?;
        Ok(value.trim().to_owned())
    }
}

pub(super) fn unavailable(error: &io::Error) -> Missing {
    Missing::new(format!("a Redis server does not start: {error}"), INSTALL)
}

fn own_lines(kind: Kind, folder: &Path, port: &Port, version: (u32, u32)) -> Vec<String> {
    let folder = folder.display();
    let mut lines = vec![
        "bind 127.0.0.1".to_owned(),
        format!("port {}", port.number()),
        format!("unixsocket {folder}/socket"),
        format!("dir {folder}"),
        format!("logfile {folder}/log"),
        "daemonize no".to_owned(),
    ];
    if kind == Kind::Sentinel {
        return lines;
    }
    lines.extend(
        [
            // Written to the kernel before the answer goes out, so that a server that is killed
            // keeps what it acknowledged (A2). `everysec` may put that off for two seconds.
            "appendonly yes",
            "appendfsync no",
            // No background process that could live on for a moment.
            "auto-aof-rewrite-percentage 0",
            "save \"\"",
            "repl-diskless-sync yes",
            "repl-diskless-sync-delay 0",
        ]
        .map(str::to_owned),
    );
    if version >= (7, 0) {
        lines.push("enable-debug-command local".to_owned());
    }
    lines
}

fn access_lines(setup: &Setup, kind: Kind) -> Vec<String> {
    match (&setup.password, kind) {
        (Some(password), Kind::Data) => vec![
            format!("requirepass {password}"),
            format!("masterauth {password}"),
        ],
        _ => Vec::new(),
    }
}

fn tls_lines(setup: &Setup, kind: Kind, port: &Port, files: &Files) -> Vec<String> {
    let clients = if setup.client_certificates {
        "yes"
    } else {
        "optional"
    };
    let mut lines = vec![
        "port 0".to_owned(),
        format!("tls-port {}", port.number()),
        format!("tls-cert-file {}", files.server.display()),
        format!("tls-key-file {}", files.server_key.display()),
        format!("tls-ca-cert-file {}", files.authority.display()),
        format!("tls-auth-clients {clients}"),
        "tls-replication yes".to_owned(),
    ];
    if kind == Kind::Data {
        lines.push("tls-cluster yes".to_owned());
    }
    lines
}

/// Major and minor number of a binary.
fn version(binary: &Path) -> Result<(u32, u32), Missing> {
    let said = Command::new(binary)
        .arg("--version")
        .output()
        .map_err(|error| unavailable(&error))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let numbers = said
        .split_whitespace()
        .find_map(|word| word.strip_prefix("v="))
        .and_then(|version| {
            let mut parts = version.split('.').map(str::parse);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        });
    match numbers {
        Some(version) if version >= (6, 2) => Ok(version),
        _ => Err(Missing::new(
            format!(
                "this is no Redis server of version 6.2 or later: {}",
                said.trim()
            ),
            INSTALL,
        )),
    }
}

/// The end of a log, where the reason is.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
