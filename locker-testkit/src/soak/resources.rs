//! What this process needs at a moment. Counted in procfs, so connections and files are
//! descriptors, whoever opened them.

use std::fmt;
use tokio::runtime::Handle;

/// How much more memory a flat run may have at its end.
const GROWTH: u64 = 2 * 1024 * 1024;

/// What this process needs at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Threads of the process.
    pub threads: usize,
    /// Open descriptors: connections, files, timers.
    pub descriptors: usize,
    /// Tasks of the callers' runtime.
    pub tasks: usize,
    /// Resident memory in bytes.
    pub memory: u64,
}

impl Resources {
    /// What it needs now. Zeros where procfs cannot be read.
    pub fn now() -> Self {
        let entries = |path| std::fs::read_dir(path).map_or(0, Iterator::count);
        Self {
            threads: entries("/proc/self/task"),
            descriptors: entries("/proc/self/fd"),
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
        let memory = self.memory / 1024;
        write!(
            f,
            "{threads} threads, {descriptors} descriptors, {tasks} tasks, {memory} KiB"
        )
    }
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
            tasks: before.tasks + 1,
            memory: before.memory + GROWTH + 1,
        };
        assert_eq!(now.grown_since(&before).len(), 4);
        assert_eq!(before.grown_since(&before), Vec::<String>::new());
    }
}
