//! What several tasks ask of a server alone while a request is in flight is one script.
//!
//! `locker-coalesce` decides what travels with what, and says why nothing is sent after its caller
//! left. On a cluster there is nothing to gather: keys lie in different slots, so every operation is
//! a script of its own, and those of one moment share the pipelines of the connections anyway.
//!
//! A member's own failure never fails its batch, because the script runs each in a `pcall`. What is
//! refused as a whole (a right that is missing, a server that loads its data) is judged by the gate:
//! sent again apart where a member may be to blame, told to everybody where none is.

use crate::connection::Connection;
use crate::names::Names;
use crate::script::{self, Answered, BATCH, Member, MemberAnswer};
use locker_coalesce::{Carrier, Gate, Limits};
use locker_core::{BackendError, ErrorKind};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

pub(crate) type Gathering = Arc<Gate<Scripts>>;

/// Sends members as scripts over one connection.
#[derive(Debug)]
pub(crate) struct Scripts {
    connection: Connection,
    names: Arc<Names>,
}

/// The gate of a connection of the current runtime, where it pays.
pub(crate) fn over(connection: &Connection, names: &Arc<Names>) -> Option<Gathering> {
    const LIMITS: Limits = match NonZeroUsize::new(BATCH) {
        // While the server works on one script the client reads the answers of another, and writes a
        // third: with many tasks five keep both of them at work. Few operations stay together: a script
        // costs something, whatever is in it.
        Some(batch) => Limits {
            flights: NonZeroUsize::MIN.saturating_add(4),
            light_flights: NonZeroUsize::MIN.saturating_add(1),
            together: NonZeroUsize::MIN.saturating_add(3),
            ..Limits::batches_of(batch)
        },
        None => panic!("a batch holds something"),
    };
    if connection.is_cluster() {
        return None;
    }
    let scripts = Scripts {
        connection: connection.clone(),
        names: Arc::clone(names),
    };
    Some(Arc::new(Gate::new(scripts, LIMITS)))
}

impl Carrier for Scripts {
    type Op = Member;
    type Answer = Answered;

    fn key(member: &Member) -> impl Hash {
        &member.lock
    }

    async fn carry_one(&self, member: &Member) -> MemberAnswer {
        script::send_one(&self.connection, &self.names, member).await
    }

    async fn carry(&self, members: &[Member]) -> Result<Vec<MemberAnswer>, BackendError> {
        script::send(&self.connection, &self.names, members).await
    }

    /// A slow script of somebody keeps everybody waiting.
    fn is_overload(error: &BackendError) -> bool {
        error.kind() == ErrorKind::Busy
    }
}
