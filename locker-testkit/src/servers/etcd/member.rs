//! One `etcd` process in its folder: what every cluster is made of.

use super::setup::Setup;
use crate::Missing;
use crate::servers::certificates::Files;
use crate::servers::port::Port;
use crate::servers::program;
use crate::servers::supervisor::Supervisor;
use crate::servers::wait::wait_while;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What to do when there is no server.
const INSTALL: &str =
    "apt-get install etcd-server (version 3.4 or later), or set LOCKER_TEST_ETCD_URL";

/// How long a cluster may take to serve after its start.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a question to a member may take.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);

/// The ports of one member, known before it starts: every member names all others.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) client: Port,
    pub(super) peer: Port,
    /// Plain HTTP, whatever clients must speak: where one asks how it is.
    pub(super) health: Port,
}

/// One server process.
#[derive(Debug)]
pub struct Member {
    supervisor: Supervisor,
    ports: Ports,
    files: Option<Files>,
}

impl Ports {
    pub(super) fn free() -> io::Result<Self> {
        Ok(Self {
            client: Port::free()?,
            peer: Port::free()?,
            health: Port::free()?,
        })
    }

    pub(super) fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer.number())
    }
}

impl Member {
    /// Prepares the member `name` of a cluster, which is not started by that.
    pub(super) fn prepare(
        setup: &Setup,
        name: &str,
        ports: Ports,
        cluster: &str,
    ) -> Result<Self, Missing> {
        let binary = program::find("etcd", INSTALL)?;
        demand_version(&binary)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix("locker-etcd-");
        let folder = match &setup.parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let folder = folder.map_err(|error| unavailable(&error))?;
        let files = setup
            .certificates
            .as_ref()
            .map(|certificates| certificates.write_to(folder.path()))
            .transpose()
            .map_err(|error| unavailable(&error))?;
        let mut command = vec![binary.to_string_lossy().into_owned()];
        command.extend(own_flags(
            folder.path(),
            name,
            &ports,
            cluster,
            files.as_ref(),
        ));
        if let Some(files) = &files {
            command.extend(tls_flags(setup, files));
        }
        command.extend(setup.flags.iter().cloned());
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        Ok(Self {
            supervisor: Supervisor::new(folder, &command)?,
            ports,
            files,
        })
    }

    /// The port on which clients find it.
    pub fn port(&self) -> u16 {
        self.ports.client.number()
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

    /// The folder with its data.
    pub fn folder(&self) -> &Path {
        self.supervisor.folder()
    }

    /// The process that runs, if one was started and not killed.
    pub fn pid(&self) -> Option<i32> {
        self.supervisor.pid()
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        self.supervisor.output()
    }

    /// Stops the process (SIGSTOP): connections stay, nothing is answered.
    pub fn pause(&self) -> io::Result<()> {
        self.supervisor.pause()
    }

    /// Lets a stopped process go on (SIGCONT).
    pub fn resume(&self) -> io::Result<()> {
        self.supervisor.resume()
    }

    /// Kills the process (SIGKILL). Its data stay.
    pub fn kill(&mut self) -> io::Result<()> {
        self.supervisor.kill()
    }

    /// Starts the process on its data, after killing one that runs. It does not wait.
    pub fn start(&mut self) -> io::Result<()> {
        self.supervisor.start()
    }

    /// Starts the process on its data and waits until it serves. That takes a quorum.
    pub fn start_again(&mut self) -> io::Result<()> {
        self.start()?;
        self.serves()
    }

    /// Removes the data of a member that was killed.
    pub fn forget(&mut self) -> io::Result<()> {
        self.kill()?;
        match fs::remove_dir_all(self.folder().join("data")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until the member serves.
    pub(super) fn serves(&self) -> io::Result<()> {
        let is_healthy = || match self.ask("/health") {
            Ok(answer) if answer.contains("\"health\":\"true\"") => Ok(()),
            Ok(answer) => Err(answer),
            Err(error) => Err(error.to_string()),
        };
        let serves = wait_while(|| self.supervisor.runs(), START_LIMIT, is_healthy);
        serves.map_err(|why| io::Error::other(format!("{why}\n{}", tail(&self.log()))))
    }

    /// Whether this member leads its cluster, by its own word.
    pub fn leads(&self) -> io::Result<bool> {
        self.metric("etcd_server_is_leader")
            .map(|value| value == "1")
    }

    /// One value of the member's metrics, by its name with its labels.
    pub fn metric(&self, name: &str) -> io::Result<String> {
        let metrics = self.ask("/metrics")?;
        let found = metrics.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(' ')?;
            Some(value.to_owned())
        });
        found.ok_or_else(|| io::Error::other(format!("there is no metric {name}")))
    }

    /// A question in plain HTTP.
    fn ask(&self, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.health.number()))?;
        stream.set_read_timeout(Some(QUESTION_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

pub(super) fn unavailable(error: &io::Error) -> Missing {
    Missing::new(format!("an etcd server does not start: {error}"), INSTALL)
}

fn own_flags(
    folder: &Path,
    name: &str,
    ports: &Ports,
    cluster: &str,
    files: Option<&Files>,
) -> Vec<String> {
    let (scheme, host) = match files {
        Some(_) => ("https", "localhost"),
        None => ("http", "127.0.0.1"),
    };
    let client = ports.client.number();
    vec![
        format!("--name={name}"),
        format!("--data-dir={}/data", folder.display()),
        format!("--listen-client-urls={scheme}://127.0.0.1:{client}"),
        format!("--advertise-client-urls={scheme}://{host}:{client}"),
        format!("--listen-peer-urls={}", ports.peer_url()),
        format!("--initial-advertise-peer-urls={}", ports.peer_url()),
        format!("--initial-cluster={cluster}"),
        "--initial-cluster-state=new".to_owned(),
        format!(
            "--listen-metrics-urls=http://127.0.0.1:{}",
            ports.health.number()
        ),
        "--log-level=warn".to_owned(),
        "--logger=zap".to_owned(),
    ]
}

fn tls_flags(setup: &Setup, files: &Files) -> Vec<String> {
    let mut flags = vec![
        format!("--cert-file={}", files.server.display()),
        format!("--key-file={}", files.server_key.display()),
        format!("--trusted-ca-file={}", files.authority.display()),
    ];
    if setup.client_certificates {
        flags.push("--client-cert-auth=true".to_owned());
    }
    flags
}

fn demand_version(binary: &PathBuf) -> Result<(), Missing> {
    let said = Command::new(binary)
        .arg("--version")
        .output()
        .map_err(|error| unavailable(&error))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "))
        .and_then(|version| {
            let mut parts = version.trim().split('.').map(str::parse::<u32>);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        });
    if version >= Some((3, 4)) {
        return Ok(());
    }
    Err(Missing::new(
        format!("this is no etcd of version 3.4 or later: {}", said.trim()),
        INSTALL,
    ))
}

/// The end of a log, where the reason is.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
