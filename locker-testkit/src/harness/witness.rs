//! What the steps of all workers leave behind: the resource that the lock protects.
//!
//! It is a file per key that is only ever appended to. The kernel puts the appends of all processes
//! in one order, so nobody locks anything, and a worker that is stopped or killed in the middle of a
//! step stops nobody. Whether a step was accepted follows from the file alone: a token smaller than
//! one that an accepted step bore before is refused. Every process works that out for itself, and
//! the harness works it out again.

use super::times::micros;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const ENTRY: usize = 32;

/// What a worker did at the witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A step of the job begins.
    Begin,
    /// It ends.
    End,
    /// A job that knows that its lock is lost writes all the same.
    Late,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// With which token.
    pub token: u64,
    /// When.
    pub at: u64,
    /// By which process.
    pub pid: u32,
    /// What.
    pub act: Act,
}

/// The witness of one key.
#[derive(Debug)]
pub struct Witness {
    file: File,
    read: u64,
    /// The largest token of an accepted step.
    largest: u64,
}

/// Whether a step was accepted; if not, because of which token.
pub type Answer = Result<(), u64>;

/// The file of a key.
pub fn path(folder: &Path, key: usize) -> PathBuf {
    folder.join(format!("witness-{key}"))
}

impl Witness {
    /// Opens the witness of this key, or begins it.
    pub fn open(folder: &Path, key: usize) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path(folder, key))?;
        Ok(Self {
            file,
            read: 0,
            largest: 0,
        })
    }

    /// Leaves an entry.
    pub fn leave(&mut self, token: u64, act: Act) -> io::Result<Answer> {
        let entry = Entry {
            token,
            at: micros(),
            pid: std::process::id(),
            act,
        };
        self.file.write_all(&entry.encode())?;
        // After an append the position is the end of what was appended.
        let end = self.file.stream_position()?;
        let before = usize::try_from(end - self.read).unwrap_or(0);
        let mut bytes = vec![0; before];
        self.file.read_exact_at(&mut bytes, self.read)?;
        self.read = end;
        let mut answer = Ok(());
        for entry in bytes.chunks_exact(ENTRY).filter_map(Entry::decode) {
            answer = judge(&mut self.largest, &entry);
        }
        Ok(answer)
    }

    /// Everything that was left with the witness of this key.
    pub fn read(folder: &Path, key: usize) -> io::Result<Vec<Entry>> {
        match std::fs::read(path(folder, key)) {
            Ok(bytes) => Ok(bytes
                .chunks_exact(ENTRY)
                .filter_map(Entry::decode)
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Whether the witness accepts this entry, after all those before it.
pub fn judge(largest: &mut u64, entry: &Entry) -> Answer {
    if entry.token < *largest {
        return Err(*largest);
    }
    if entry.act != Act::End {
        *largest = entry.token;
    }
    Ok(())
}

impl Entry {
    fn encode(self) -> [u8; ENTRY] {
        let act: u32 = match self.act {
            Act::Begin => 1,
            Act::End => 2,
            Act::Late => 3,
        };
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.token.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.at.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.pid.to_le_bytes());
        bytes[20..24].copy_from_slice(&act.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        Some(Self {
            token: long(0)?,
            at: long(8)?,
            pid: short(16)?,
            act: match short(20)? {
                1 => Act::Begin,
                2 => Act::End,
                3 => Act::Late,
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_token_is_refused_by_everybody_who_looks() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = Witness::open(folder.path(), 0).unwrap();
        let mut two = Witness::open(folder.path(), 0).unwrap();
        assert_eq!(one.leave(5, Act::Begin).unwrap(), Ok(()));
        assert_eq!(one.leave(5, Act::End).unwrap(), Ok(()));
        assert_eq!(two.leave(7, Act::Begin).unwrap(), Ok(()));
        assert_eq!(one.leave(5, Act::Late).unwrap(), Err(7));
        assert_eq!(
            two.leave(6, Act::Begin).unwrap(),
            Err(7),
            "refused is not seen"
        );
        assert_eq!(two.leave(7, Act::End).unwrap(), Ok(()));
        let entries = Witness::read(folder.path(), 0).unwrap();
        let tokens: Vec<u64> = entries.iter().map(|entry| entry.token).collect();
        assert_eq!(tokens, [5, 5, 7, 5, 6, 7]);
    }
}
