//! `PgBouncer` in front of a server, in transaction mode.

use super::server::{Server, as_user, unavailable, user};
use crate::Missing;
use crate::servers::port::Port;
use crate::servers::program;
use crate::servers::supervisor::Supervisor;
use crate::servers::wait::wait_while;
use nix::unistd::chown;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// What to do when there is no pooler.
const INSTALL: &str = "apt-get install pgbouncer";
/// How long it may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long the pooler waits, in seconds, before it tries a server again that let it in no more. Its
/// default of 15 is longer than a process lives without a report.
const RETRY: f64 = 0.1;

/// A pooler that gives each transaction one of a few sessions of its server.
#[derive(Debug)]
pub struct Bouncer {
    supervisor: Supervisor,
    port: Port,
}

impl Bouncer {
    /// Starts a pooler with so many sessions for each user of a server, and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`Missing`] when it cannot be had.
    pub fn start(server: &Server, sessions: u32) -> Result<Self, Missing> {
        Self::start_with(server, sessions, "")
    }

    /// The same, with these lines in its configuration.
    ///
    /// # Errors
    ///
    /// [`Missing`] when it cannot be had.
    pub fn start_with(server: &Server, sessions: u32, lines: &str) -> Result<Self, Missing> {
        let binary = program::find("pgbouncer", INSTALL)?;
        let user = user()?;
        let made = || -> io::Result<(tempfile::TempDir, Port)> {
            let folder = tempfile::Builder::new().prefix("locker-pgb-").tempdir()?;
            let port = Port::free()?;
            let path = folder.path();
            let (number, server, shown) = (port.number(), server.port(), path.display());
            let users = path.join("users");
            fs::write(&users, "\"postgres\" \"\"\n")?;
            let config = format!(
                "[databases]\n* = host=127.0.0.1 port={server}\n[pgbouncer]\n\
                 listen_addr = 127.0.0.1\nlisten_port = {number}\nunix_socket_dir =\n\
                 auth_type = trust\nauth_file = {shown}/users\npool_mode = transaction\n\
                 default_pool_size = {sessions}\nmax_client_conn = 1000\n\
                 server_reset_query = DISCARD ALL\nserver_login_retry = {RETRY}\n{lines}\n"
            );
            fs::write(path.join("config"), config)?;
            if let Some(user) = &user {
                for path in [path, &users, &path.join("config")] {
                    chown(path, Some(user.uid), Some(user.gid))?;
                }
            }
            Ok((folder, port))
        };
        let (folder, port) = made().map_err(|error| unavailable(&error))?;
        let (binary, config) = (binary.to_string_lossy(), folder.path().join("config"));
        let command = as_user(user.as_ref(), &[&*binary, &*config.to_string_lossy()]);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut supervisor = Supervisor::new(folder, &command)?;
        supervisor.start().map_err(|error| unavailable(&error))?;
        let listens = || match TcpStream::connect(("127.0.0.1", port.number())) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        wait_while(|| supervisor.runs(), START_LIMIT, listens).map_err(|why| {
            let output = supervisor.output();
            Missing::new(
                format!("the pooler does not start: {why}\n{output}"),
                INSTALL,
            )
        })?;
        Ok(Self { supervisor, port })
    }

    /// Its URL, as the role that may do everything.
    pub fn url(&self) -> String {
        let number = self.port.number();
        format!("postgres://postgres@127.0.0.1:{number}/postgres")
    }

    /// Its port on the loopback.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its process, while it is meant to run.
    pub fn pid(&self) -> Option<i32> {
        self.supervisor.pid()
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        self.supervisor.output()
    }
}
