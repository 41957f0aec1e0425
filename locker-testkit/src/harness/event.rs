//! What a worker says: one line of JSON for everything that matters to a verdict.

use serde::{Deserialize, Serialize};

/// Something that happened in a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, in microseconds of the boot clock.
    pub at: u64,
    /// In which of the workers' places; a worker that is replaced leaves its place to the next.
    pub worker: usize,
    /// In which process.
    pub pid: u32,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The locker runs.
    Ready,
    /// A lock was granted, and the caller has the guard.
    Grant {
        /// Which lock.
        key: usize,
        /// Its fencing token.
        token: u64,
        /// Under which identity.
        owner: String,
        /// Until when the guard says that it is valid.
        until: u64,
        /// Whether it is kept until the worker is told to let go.
        kept: bool,
        /// How many attempts at the store (creates, take-overs) this process has made so far.
        attempts: u64,
    },
    /// The guard's validity has moved.
    Valid {
        /// Which lock.
        key: usize,
        /// Which grant.
        token: u64,
        /// Until when the guard says that it is valid.
        until: u64,
    },
    /// The job was told of its loss and cancelled.
    Loss {
        /// Which lock.
        key: usize,
        /// Which grant.
        token: u64,
        /// Why.
        reason: String,
        /// Until when the guard is valid all the same; now, if it is not.
        until: u64,
    },
    /// A guard that was invalid is valid again, which must never be (S5).
    Revived {
        /// Which lock.
        key: usize,
        /// Which grant.
        token: u64,
        /// Until when it calls itself valid.
        until: u64,
    },
    /// The witness refused a step of a job whose guard was valid a moment before.
    Fenced {
        /// Which lock.
        key: usize,
        /// Which grant.
        token: u64,
        /// What the witness had seen.
        largest: u64,
    },
    /// After its loss the job tried to write all the same, to see whether the token protects.
    Late {
        /// Which lock.
        key: usize,
        /// Which grant.
        token: u64,
        /// Whether the witness let it pass, because it had seen no later token.
        accepted: bool,
    },
    /// The release is about to be sent.
    ReleaseSent {
        /// Which lock.
        key: usize,
        /// Which grant.
        token: u64,
    },
    /// The release was answered.
    Released {
        /// Which lock.
        key: usize,
        /// Which grant.
        token: u64,
        /// `done`, `lost`, `unconfirmed` or `forked`.
        answer: String,
    },
    /// An acquisition failed.
    Refused {
        /// Which lock.
        key: usize,
        /// How: the kind of the store's error, or the locker's.
        kind: String,
    },
    /// An acquisition waited in vain.
    InVain {
        /// Which lock.
        key: usize,
    },
    /// A thread that wanted to run every few milliseconds did not run for so long.
    Gap {
        /// When it last ran.
        from: u64,
    },
    /// The locker has reported that the store's clock was stepped.
    StoreClock {
        /// Which way.
        forward: bool,
        /// By how much, in microseconds.
        micros: u64,
    },
    /// A forked child tried to use its parent's guard and connection.
    Child {
        /// Whether everything that it asked for was refused.
        refused: bool,
        /// For how long its copy of the guard called itself valid.
        valid_micros: u64,
    },
    /// An order was carried out.
    Did {
        /// Which.
        what: String,
        /// How many attempts at the store this process had made by then.
        attempts: u64,
    },
    /// Everything was given back, and the process ends by itself.
    Ended,
    /// The worker could not do what it was told.
    Failed {
        /// Why.
        why: String,
    },
}
