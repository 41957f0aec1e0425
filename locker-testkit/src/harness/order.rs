//! What a worker is told: its configuration, and orders, one line of JSON each.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a worker starts with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Of which deployment; it knows how to connect.
    pub deployment: String,
    /// Where the store is.
    pub url: String,
    /// Where the witnesses are.
    pub folder: PathBuf,
    /// Its place among the workers.
    pub worker: usize,
    /// T in milliseconds.
    pub ttl_ms: u64,
    /// Of its random choices.
    pub seed: u64,
    /// How many keys there are.
    pub keys: usize,
    /// Whether it works on all keys from the start, or only when told to.
    pub works: bool,
}

/// An order to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Keep the next grant of this key until told to let go.
    Keep(usize),
    /// End the job that keeps this key.
    LetGo(usize),
    /// Acquire this key once, waiting so many milliseconds for it, and keep it.
    Take(usize, u64),
    /// So many tasks wait for this key; each of them takes it once, for a moment.
    Herd(usize, u32),
    /// Block the runtime of the jobs for so many milliseconds.
    Block(u64),
    /// The next step of this key's job forks.
    Fork(usize),
    /// From now on this happens to requests.
    Trouble(Trouble),
    /// Deliver what was held back.
    Deliver,
    /// No more trouble.
    Heal,
    /// Give everything back, and end.
    End,
}

/// What happens to the requests of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The Reporter's thread stands still inside its next report.
    BlockReports,
    /// No request is answered, and none arrives.
    CutOff,
    /// Every request arrives, and no answer does.
    LoseReplies,
    /// Every request arrives, and its answer comes a quarter of T later.
    SlowReplies,
    /// The answer to the next create is lost.
    LoseCreate,
    /// The answer to the next extension is lost.
    LoseExtend,
    /// The answer to the next release is lost.
    LoseRelease,
    /// The answer to the next report is lost.
    LoseReport,
    /// The next create is held back, to be delivered later.
    HoldCreate,
}
