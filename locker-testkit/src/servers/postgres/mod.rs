//! Postgres servers: `initdb` and `postgres` in a temporary folder, as an ordinary user, because the
//! server refuses to run as root. Dropping the value ends the server and removes its files.
//!
//! ```no_run
//! use locker_testkit::servers::postgres::Server;
//!
//! let server = Server::start(&["max_connections = 10"])?;
//! println!("{}", server.url()); // postgres://postgres@127.0.0.1:18231/postgres
//! server.sql("CREATE ROLE somebody LOGIN")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Tests that need nothing special share one: [`shared`].

mod bouncer;
mod power;
mod server;
mod standby;
mod statements;

pub use bouncer::Bouncer;
pub use server::{GUARDED, Server};
pub use statements::Statements;

use crate::Missing;
use crate::servers::shared::{Cell, Shared};
use std::sync::OnceLock;

/// The variable that names a server. Its role must be allowed to create schemas and roles.
pub const SERVER_VARIABLE: &str = "LOCKER_TEST_POSTGRES_URL";

/// The URL of a server that all tests of a process share, each in a schema of its own. It ends with
/// the process. It is not durable: tests that crash a server start their own.
///
/// # Errors
///
/// [`Missing`] when it cannot be had.
pub fn shared() -> Result<&'static str, Missing> {
    static SHARED: Cell<Server> = Cell::new();
    Shared::of(&SHARED, SERVER_VARIABLE, Server::url, volatile).map(Shared::url)
}

/// The same behind a pooler in transaction mode with three sessions: the URL through the pooler, and
/// the one past it.
///
/// # Errors
///
/// [`Missing`] when it cannot be had.
pub fn shared_bouncer() -> Result<(&'static str, &'static str), Missing> {
    struct Both {
        through: String,
        past: String,
        _keep: (Bouncer, Server),
    }
    static SHARED: OnceLock<Result<Both, Missing>> = OnceLock::new();
    let made = SHARED.get_or_init(|| {
        let server = volatile()?;
        let bouncer = Bouncer::start(&server, 3)?;
        Ok(Both {
            through: bouncer.url(),
            past: server.url().to_owned(),
            _keep: (bouncer, server),
        })
    });
    match made {
        Ok(shared) => Ok((&shared.through, &shared.past)),
        Err(missing) => Err(missing.clone()),
    }
}

/// Nothing in it is worth a disk's work. The cancellation sweep keeps 24 worlds of 15 connections
/// at once, and a busy machine has not closed those of the world before when the next one begins.
fn volatile() -> Result<Server, Missing> {
    Server::start(&["fsync = off", "max_connections = 1000"])
}
