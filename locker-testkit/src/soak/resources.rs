//! What this process needs at a moment. Counted in procfs, so connections and files are
//! descriptors, whoever opened them.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use tokio::runtime::Handle;

/// How much more memory a flat run may have at its end.
const GROWTH: u64 = 2 * 1024 * 1024;

/// How many spare descriptors SQLite may keep. Two lockers have six connections. After a fault a
/// connection is opened while the one before it is still closing, and looks into the file up to
/// twice before it opens it: 6 × 2 × 3 at the very most, however long it runs.
const SPARE: usize = 36;

/// What this process needs at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Threads of the process.
    pub threads: usize,
    /// Open descriptors in use: connections, files, timers.
    pub descriptors: usize,
    /// Descriptors of database files that belong to no connection. While any other connection of the
    /// process is open, SQLite keeps those of a closed one for the next: to close one would drop the
    /// locks of them all. Their number is bounded, not equal.
    pub spare: usize,
    /// Tasks of the callers' runtime.
    pub tasks: usize,
    /// Resident memory in bytes.
    pub memory: u64,
}

impl Resources {
    /// What it needs now. Zeros where procfs cannot be read.
    pub fn now() -> Self {
        let entries = |path| std::fs::read_dir(path).map_or(0, Iterator::count);
        let spare = spare();
        Self {
            threads: entries("/proc/self/task"),
            descriptors: entries("/proc/self/fd").saturating_sub(spare),
            spare,
            tasks: Handle::current().metrics().num_alive_tasks(),
            memory: resident().unwrap_or(0),
        }
    }

    /// What has grown since an earlier moment, beyond what is allowed; nothing, if it is flat.
    pub fn grown_since(&self, before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        for (what, before, now) in [
            ("threads", before.threads, self.threads),
            ("descriptors", before.descriptors, self.descriptors),
            ("tasks", before.tasks, self.tasks),
        ] {
            if now != before {
                grown.push(format!("{before} {what} before, {now} now"));
            }
        }
        if self.spare > SPARE {
            grown.push(format!("{} spare descriptors", self.spare));
        }
        let more = self.memory.saturating_sub(before.memory);
        if more > GROWTH {
            grown.push(format!("{} KiB more memory", more / 1024));
        }
        grown
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (threads, descriptors, tasks) = (self.threads, self.descriptors, self.tasks);
        let (spare, memory) = (self.spare, self.memory / 1024);
        write!(
            f,
            "{threads} threads, {descriptors} descriptors ({spare} spare ones besides), {tasks} \
             tasks, {memory} KiB"
        )
    }
}

/// A connection has one descriptor of its database and one of the log beside it.
fn spare() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let mut files: HashMap<PathBuf, usize> = HashMap::new();
    for path in entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()) {
        *files.entry(path).or_default() += 1;
    }
    let spare_of = |(path, descriptors): (&PathBuf, &usize)| {
        let mut log = path.clone().into_os_string();
        log.push("-wal");
        let connections = files.get(&PathBuf::from(log))?;
        Some(descriptors.saturating_sub(*connections))
    };
    files.iter().filter_map(spare_of).sum()
}

fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_grows_is_named() {
        let before = Resources::now();
        assert!(before.threads > 0 && before.descriptors > 0 && before.memory > 0);
        let now = Resources {
            threads: before.threads + 1,
            descriptors: before.descriptors + 1,
            spare: SPARE + 1,
            tasks: before.tasks + 1,
            memory: before.memory + GROWTH + 1,
        };
        assert_eq!(now.grown_since(&before).len(), 5);
        assert_eq!(before.grown_since(&before), Vec::<String>::new());
    }
}
