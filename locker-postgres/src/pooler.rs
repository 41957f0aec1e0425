//! Whether a connection pooler stands between, which gives one session of the server to many
//! connections in turn (`PgBouncer` in transaction mode is the one everybody knows).
//!
//! There, what is prepared in one request and bound in the next may reach two sessions, and the
//! second one then runs *another client's statement*. So a connection is trusted with that only when
//! it is known to have a session of its own; until then, and behind a pooler for ever, every request
//! is one plain text.
//!
//! How it is seen: the first connection asks, in the packet that opens it, for a session of a name
//! that nobody else has. Then the session that answers is asked for its name. A server gives the
//! session to this connection alone, and the name with it. A pooler refuses what it cannot pass on,
//! or leaves it out, because its sessions are older than its clients and serve them in turn. So
//! nothing depends on who else uses the pooler at that moment. (Looking at the numbers of two
//! sessions does: others may take them and bring them back between two questions.)
//!
//! A pooler that gives a session for the whole connection refuses the name too. Everything is right
//! there all the same, but whoever waits polls, unless [`Between::Sessions`] is said.

use crate::error;
use locker_core::BackendError;
use sqlx::error::DatabaseError;
use std::sync::OnceLock;

/// The setting that bears the name. The server keeps any setting whose name has a dot.
pub(crate) const NAME: &str = "locker.session";

/// Asks a session for its name.
pub(crate) const ASK: &str =
    "SELECT pg_backend_pid() AS pid, current_setting('locker.session', true) AS name";

/// What is between a locker and its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Between {
    /// It is found out when the first connection is opened. Any pooler that refuses or drops a
    /// setting in the packet that opens a connection is taken for one of transactions.
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
}

/// A name that no other session has.
pub(crate) fn new_name() -> Result<String, BackendError> {
    let random = getrandom::u64().map_err(|_| error::unavailable("there is no randomness"))?;
    Ok(format!("{random:016x}"))
}

/// Whether this may be how a pooler refuses a setting. It is not where a server would refuse every
/// connection: of a role, a database, for want of a resource, or because it is shutting down.
pub(crate) fn may_be_of_a_pooler(refused: &dyn DatabaseError) -> bool {
    let code = refused.code().unwrap_or_default();
    !["28", "3D", "53", "57"].contains(&code.get(..2).unwrap_or_default())
}
