//! A server's wall clock that a test can step while the server runs, and no other clock.
//!
//! The server is started with a small library in front of the system's, made from `clock.c` by this
//! machine's C compiler.

use crate::Missing;
use crate::servers::program;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("clock.c");
const LIBRARY: &str = "clock.so";
const OFFSET: &str = "clock.offset";

/// The wall clock of the servers that are started with it.
#[derive(Debug)]
pub struct SteppedClock {
    library: PathBuf,
    offset: PathBuf,
}

impl SteppedClock {
    /// A clock that goes right so far; its files are in this folder, and go with it.
    ///
    /// # Errors
    ///
    /// [`Missing`] without a C compiler.
    pub fn new(folder: &Path) -> Result<Self, Missing> {
        const INSTALL: &str = "apt-get install gcc libc6-dev";
        let compiler = program::find("cc", INSTALL)?;
        let failed = |error: io::Error| {
            Missing::new(format!("a library cannot be made here: {error}"), INSTALL)
        };
        let source = folder.join("clock.c");
        fs::write(&source, SOURCE).map_err(failed)?;
        let clock = Self {
            library: folder.join(LIBRARY),
            offset: folder.join(OFFSET),
        };
        fs::write(&clock.offset, 0_i64.to_ne_bytes()).map_err(failed)?;
        let said = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .args([&clock.library, &source])
            .arg("-ldl")
            .output()
            .map_err(failed)?;
        if !said.status.success() {
            let why = String::from_utf8_lossy(&said.stderr).into_owned();
            return Err(failed(io::Error::other(why)));
        }
        Ok(clock)
    }

    /// What a server's environment must have for it to go by this clock.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("LOCKER_TEST_CLOCK", self.offset.display().to_string()),
        ]
    }

    /// Sets it, at once: so many seconds before or after the machine's.
    pub fn set(&self, seconds: i64) -> io::Result<()> {
        // The server has it mapped: it is written over, never replaced.
        let mut file = OpenOptions::new().write(true).open(&self.offset)?;
        file.write_all(&(seconds * 1_000_000).to_ne_bytes())
    }
}
