//! A server process that never outlives its test.
//!
//! Between the test and its server stands a shell, which waits for words on a pipe that the test
//! holds. However the test ends (it returns, panics, is killed), the kernel closes the pipe; then
//! the shell kills the server and removes its folder. The other way round, the kernel kills the
//! server when the shell dies: the shell has one thread, so "the parent died" means what it says.
//! Both stand in a process group of their own, out of reach of a Ctrl-C that is meant for the test.

use crate::Missing;
use crate::servers::program;
use crate::servers::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long a server may go on after it was told to stop.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);

/// `$0` is the folder, `$@` the command line of the server. `wait` after `kill`: whoever was told
/// "ended" may use the port.
const SCRIPT: &str = r#"
folder=$0
pid=
end() {
    [ -n "$pid" ] || return 0
    kill -KILL "$pid"
    wait "$pid"
    pid=
    [ ! -f "$folder/farewell" ] || . "$folder/farewell"
}
while read -r word; do
    case $word in
    start)
        end
        (
            [ ! -f "$folder/environment" ] || . "$folder/environment"
            exec setpriv --pdeathsig KILL "$@"
        ) </dev/null >>"$folder/output" 2>&1 &
        pid=$!
        echo "$pid"
        ;;
    end)
        end
        echo ended
        ;;
    esac
done
end
rm -rf "$folder"
"#;

/// The folder of a server, and the server in it when it runs.
#[derive(Debug)]
pub struct Supervisor {
    shell: Child,
    /// Closed first of all, which ends everything.
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
    pid: Option<Pid>,
}

impl Supervisor {
    /// Stands ready to start this command line, for a server that keeps its files in this folder.
    /// The folder is the supervisor's from now on, and goes when it goes.
    ///
    /// # Errors
    ///
    /// [`Missing`] when the system lacks a tool for it.
    pub fn new(folder: TempDir, command: &[&str]) -> Result<Self, Missing> {
        program::find("setpriv", "apt-get install util-linux")?;
        let missing = |error: io::Error| {
            Missing::new(
                format!("a supervising shell does not start: {error}"),
                "/bin/sh",
            )
        };
        let mut shell = Command::new("/bin/sh")
            .arg("-c")
            .arg(SCRIPT)
            .arg(folder.path())
            .args(command)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(missing)?;
        let (Some(words), Some(answers)) = (shell.stdin.take(), shell.stdout.take()) else {
            return Err(missing(io::Error::other("it has no pipes")));
        };
        Ok(Self {
            shell,
            words: Some(words),
            answers: BufReader::new(answers),
            folder: folder.keep(),
            pid: None,
        })
    }

    /// Where the server keeps its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Variables of the server's environment, from its next start on; they have nothing of what was
    /// set here before. Values have no quotes.
    pub fn environment(&self, variables: &[(&str, &str)]) -> io::Result<()> {
        let lines = variables
            .iter()
            .map(|(name, value)| format!("export {name}='{value}'\n"));
        fs::write(self.folder.join("environment"), lines.collect::<String>())
    }

    /// What the shell runs whenever it has killed the server; `$folder` is its folder. It is for what
    /// a killed server leaves elsewhere.
    pub fn farewell(&self, script: &str) -> io::Result<()> {
        fs::write(self.folder.join("farewell"), script)
    }

    /// Starts the server, after killing the one that runs. It is not yet ready when this returns.
    pub fn start(&mut self) -> io::Result<()> {
        let pid = self.ask("start")?;
        let pid = pid.parse().map_err(io::Error::other)?;
        self.pid = Some(Pid::from_raw(pid));
        Ok(())
    }

    /// Kills the server, and returns when it is gone.
    pub fn kill(&mut self) -> io::Result<()> {
        self.ask("end")?;
        self.pid = None;
        Ok(())
    }

    /// Stops the server: it keeps its connections, and stands still when this returns. A thread of it
    /// that runs on another processor goes on for a moment after the signal.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        wait_until(PAUSE_LIMIT, || {
            let stands = self.stands_still();
            stands
                .then_some(())
                .ok_or_else(|| "the server does not stand still".to_owned())
        })
    }

    fn stands_still(&self) -> bool {
        let tasks = self
            .pid
            .map(|pid| fs::read_dir(format!("/proc/{pid}/task")));
        let Some(Ok(tasks)) = tasks else {
            return true;
        };
        tasks
            .flatten()
            .all(|task| matches!(state(&task.path()), None | Some('T' | 'Z' | 'X')))
    }

    /// Lets a stopped server go on.
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// The process of the server, while it is meant to run.
    pub fn pid(&self) -> Option<i32> {
        self.pid.map(Pid::as_raw)
    }

    /// Whether the server was started and has not ended. One that ended by itself is a zombie of
    /// the shell's.
    pub fn runs(&self) -> bool {
        let Some(pid) = self.pid else {
            return false;
        };
        let state = state(Path::new(&format!("/proc/{pid}")));
        !matches!(state, None | Some('Z' | 'X'))
    }

    /// What the server wrote to its standard output and error.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("output")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        // Until the shell was told to end it, the process is running or the shell's zombie: the
        // number is nobody else's.
        let pid = self.pid.ok_or(io::ErrorKind::NotFound)?;
        Ok(kill(pid, signal)?)
    }

    fn ask(&mut self, word: &str) -> io::Result<String> {
        let words = self.words.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(words, "{word}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::other("the supervising shell has ended"));
        }
        Ok(answer.trim().to_owned())
    }
}

/// In which state a process or a thread is; nothing if it is gone.
fn state(of: &Path) -> Option<char> {
    let stat = fs::read_to_string(of.join("stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.words = None;
        // Milliseconds: the shell kills, removes, and ends.
        let _ = self.shell.wait();
    }
}
