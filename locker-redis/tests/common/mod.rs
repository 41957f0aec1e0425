//! A Redis server of this test process, started from the binary of the system, and ended with it.
// Every test binary uses its own part, and tests may unwrap.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub port: u16,
    /// Its shell ends the server when its standard input ends, which it does with this process.
    shell: Child,
    folder: TempDir,
}

impl Server {
    /// A server with these arguments beside the usual ones; why there is none, if there is none.
    pub fn start(arguments: &[&str]) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut last = String::new();
        for _ in 0..20 {
            let port = free_port();
            let mut shell = shell(folder.path(), port, arguments)?;
            if came_up(&mut shell, port) {
                return Ok(Self {
                    port,
                    shell,
                    folder,
                });
            }
            drop(shell.stdin.take());
            shell.wait().ok();
            last = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        }
        Err(format!("the server does not come up: {last}"))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn client(&self) -> redis::Client {
        redis::Client::open(self.url()).unwrap()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().ok();
    }
}

fn shell(folder: &Path, port: u16, arguments: &[&str]) -> Result<Child, String> {
    Command::new("sh")
        .arg("-c")
        .arg("redis-server \"$@\" >log 2>&1 & read _; kill -9 $!; wait $! 2>/dev/null")
        .arg("sh")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())
}

fn came_up(shell: &mut Child, port: u16) -> bool {
    let limit = Instant::now() + PATIENCE;
    while Instant::now() < limit {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        // The shell waits for its standard input, so it cannot tell that the server has ended.
        if shell.try_wait().is_ok_and(|ended| ended.is_some()) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// A port that nobody has, below the range from which the system gives ports to clients.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = 20_000 + u16::try_from(random % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The server that the tests of this process share.
pub fn shared() -> Result<&'static Server, String> {
    static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Server::start(&[]));
    server.as_ref().map_err(Clone::clone)
}
