//! Whether a connection pooler stands between, which gives one session of the server to many
//! connections in turn (`PgBouncer` in transaction mode is the one everybody knows).
//!
//! There, what is prepared in one request and bound in the next may reach two sessions, and the
//! second one then runs *another client's statement*. So a connection is trusted with that only when
//! it is known to have a session of its own; until then, and behind a pooler for ever, every request
//! is one plain text.
//!
//! How it is seen: a session that is older than the connection belongs to a pooler; so do two
//! connections with one session, and a connection whose session changes. The first look costs
//! nothing; the others cost a second connection, once for each locker.

use crate::session::About;
use std::sync::OnceLock;
use std::time::Instant;

/// What is between a locker and its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Between {
    /// It is found out when the first connection is opened.
    #[default]
    FindOut,
    /// Nothing, or a pooler that gives each connection a session of its own for as long as it lasts:
    /// statements are prepared, and wake-ups are heard.
    Sessions,
    /// A pooler that gives a session for each transaction: nothing is prepared, and wake-ups cannot
    /// be heard, so whoever waits polls.
    Transactions,
}

/// What is known about it by all connections of a locker.
#[derive(Debug)]
pub(crate) struct Pooler {
    pools: OnceLock<bool>,
}

/// What a first look at a session says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Direct,
    Pooled,
    Unknown,
}

impl Pooler {
    pub(crate) fn new(between: Between) -> Self {
        let pools = OnceLock::new();
        match between {
            Between::FindOut => {}
            Between::Sessions => drop(pools.set(false)),
            Between::Transactions => drop(pools.set(true)),
        }
        Self { pools }
    }

    /// `None` as long as it is not known.
    pub(crate) fn is_known_to_pool(&self) -> Option<bool> {
        self.pools.get().copied()
    }

    /// Remembers what was found; the first finding stays.
    pub(crate) fn learn(&self, pools: bool) {
        self.pools.get_or_init(|| pools);
    }

    /// Judges a session by what it says of itself.
    pub(crate) fn verdict(&self, about: &About, connecting: Instant) -> Verdict {
        match self.is_known_to_pool() {
            Some(true) => Verdict::Pooled,
            Some(false) => Verdict::Direct,
            None if about.is_older_than(connecting) => {
                self.learn(true);
                Verdict::Pooled
            }
            None => Verdict::Unknown,
        }
    }
}
