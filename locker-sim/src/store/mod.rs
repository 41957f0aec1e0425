//! The stores of the simulation, one file each. A model of another store is one more file here.
//!
//! A model answers as its store does, *and takes its time as its store does*: it can keep a request,
//! tell when it wants to be woken, and go on then. So commit delays, two shards or a fail-over are a
//! model's own business, and the world around it does not change. What a model answers is compared
//! with the real store by the test `models`.
//!
//! | model | what is its own |
//! | --- | --- |
//! | [`Embedded`] | one clock with its owners; the kernel tells of a crash |
//! | [`Redis`] | one atomic step, on a wall clock that may be stepped |
//! | [`Replicated`] | a promotion, another clock, a former master that still answers reads |
//! | [`Cluster`] | lock and process on two nodes: a take-over is two requests |
//! | [`Postgres`] | rows that are locked, and commits that take their time |
//! | [`Etcd`] | no clock; revisions, and leases that a new leader prolongs |

mod cluster;
mod embedded;
mod etcd;
mod ledger;
mod postgres;
mod redis;
mod replicated;
mod server_clock;
mod sessions;
mod waiters;

pub use cluster::Cluster;
pub use embedded::Embedded;
pub use etcd::Etcd;
pub use postgres::Postgres;
pub use redis::Redis;
pub use replicated::Replicated;

use super::fault::Fault;
use super::op::{Answer, Op, Outbox, Subscription, Ticket, Value};
use super::plan::Plan;
use super::rng::Rng;
use locker_core::backend::Reply;
use locker_core::{BackendError, Effect, ErrorKind, Key, OwnerHash, ProcessHash, Token};
use std::fmt;
use std::time::Duration;

/// A store, as the simulation plays it.
pub trait StoreModel: fmt::Debug {
    /// Moves its clock to this true moment, which is never earlier than the one before.
    fn advance(&mut self, at: Duration);

    /// Takes a request that has just arrived.
    fn receive(&mut self, asked: Asked<'_>, out: &mut Outbox);

    /// When it wants to be woken without a request, in true time.
    fn next_wake(&self) -> Option<Duration> {
        None
    }

    /// Goes on with the one thing that is due.
    fn wake(&mut self, out: &mut Outbox) {
        let _ = out;
    }

    /// The truth about a key, at its own present time: what the next request would meet.
    fn holder(&self, key: &Key) -> Option<Holder>;

    /// Who stands in the line of this key, and perhaps others.
    fn line(&self, key: &Key) -> Vec<Subscription>;

    /// The truth about a process.
    fn is_alive(&self, process: &ProcessHash) -> bool;

    /// What may strike it while all assumptions hold.
    fn troubles(&self) -> &'static [Fault] {
        &[]
    }

    /// What may strike it against the assumptions, once in a history.
    fn breaches(&self) -> &'static [Fault] {
        &[]
    }

    /// Is struck; answers whether there was anything to strike.
    fn strike(&mut self, fault: Fault, rng: &mut Rng, out: &mut Outbox) -> bool {
        let _ = (fault, rng, out);
        false
    }

    /// The keys that hold what is no record.
    fn planted(&self) -> Vec<Key> {
        Vec::new()
    }

    /// The faults end.
    fn heal(&mut self, out: &mut Outbox) {
        let _ = out;
    }

    /// The kernel has ended this process, on the machine that a store may share with it.
    fn crashed(&mut self, process: &ProcessHash) {
        let _ = process;
    }
}

/// A request that has arrived.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its number.
    pub ticket: Ticket,
    /// What is asked.
    pub op: &'a Op,
    /// When it was sent, in true time: a client puts into a request what it knows then.
    pub sent: Duration,
}

/// The unexpired record of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Whose it is.
    pub owner: OwnerHash,
    /// Its token.
    pub token: Token,
    /// Until when it lasts, in a measure of the store's own that only grows with an extension.
    pub until: u64,
    /// Whether an operator asks for it back.
    pub marked: bool,
    /// Whether its process lives, by the store's judgement.
    pub alive: bool,
}

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One machine.
    Embedded,
    /// Redis alone.
    Redis,
    /// Redis with a replica.
    Replicated,
    /// Redis Cluster.
    Cluster,
    /// Postgres.
    Postgres,
    /// etcd.
    Etcd,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Embedded,
        Self::Redis,
        Self::Replicated,
        Self::Cluster,
        Self::Postgres,
        Self::Etcd,
    ];

    /// The store of a history.
    pub fn model(self, plan: &Plan) -> Box<dyn StoreModel> {
        match self {
            Self::Embedded => Box::new(Embedded::new()),
            Self::Redis => Box::new(Redis::new(plan)),
            Self::Replicated => Box::new(Replicated::new(plan)),
            Self::Cluster => Box::new(Cluster::new(plan)),
            Self::Postgres => Box::new(Postgres::new(plan)),
            Self::Etcd => Box::new(Etcd::new(plan)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Embedded => "embedded",
            Self::Redis => "Redis",
            Self::Replicated => "Redis, replicated",
            Self::Cluster => "Redis Cluster",
            Self::Postgres => "Postgres",
            Self::Etcd => "etcd",
        })
    }
}

/// An answer that bears no time.
#[expect(clippy::unnecessary_wraps, reason = "an answer, as a store gives it")]
fn timeless(value: Value) -> Answer {
    Ok(Reply {
        value,
        store_time: None,
    })
}

/// What a server says that cannot serve now, and has done nothing.
fn refusal(kind: ErrorKind, why: &'static str) -> BackendError {
    BackendError::new(kind, Effect::NotApplied, why)
}
