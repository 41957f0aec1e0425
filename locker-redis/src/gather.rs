//! What several tasks ask of a server alone while a request is in flight is one script; what they
//! ask of a cluster is a pipeline to each primary (`primaries`).
//!
//! `locker-coalesce` decides what travels with what, and says why nothing is sent after its caller
//! left.
//!
//! A member's own failure never fails its batch, because the script runs each in a `pcall`. What is
//! refused as a whole (a right that is missing, a server that loads its data) is judged by the gate on
//! a server alone: sent again apart where a member may be to blame, told to everybody where none is.

use crate::cluster::primaries::Primaries;
use crate::connection::{Connection, Source};
use crate::names::Names;
use crate::script::{self, Answered, BATCH, Member, MemberAnswer};
use locker_coalesce::{Carrier, Gate, Limits};
use locker_core::{BackendError, ErrorKind};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Where the operations of one moment meet. Clones share it.
#[derive(Debug, Clone)]
pub(crate) enum Gathering {
    Server(Arc<Gate<Scripts>>),
    Cluster(Arc<Primaries>),
}

/// Sends members as scripts over one connection.
#[derive(Debug)]
pub(crate) struct Scripts {
    connection: Connection,
    names: Arc<Names>,
}

impl Gathering {
    /// Over a connection of the current runtime.
    pub(crate) async fn over(source: &Source, connection: &Connection, names: &Arc<Names>) -> Self {
        if connection.is_cluster() {
            let primaries = Primaries::over(source, connection, names);
            primaries.open().await;
            return Self::Cluster(Arc::new(primaries));
        }
        Self::Server(Arc::new(gate(connection, names)))
    }

    /// Sends one member, with what others ask for at the same time.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the member was sent or never will be.
    pub(crate) async fn ask(&self, member: Member) -> MemberAnswer {
        match self {
            Self::Server(gate) => gate.ask(member).await,
            Self::Cluster(primaries) => primaries.ask(member).await,
        }
    }
}

fn gate(connection: &Connection, names: &Arc<Names>) -> Gate<Scripts> {
    const LIMITS: Limits = match NonZeroUsize::new(BATCH) {
        // While the server works on one script the client reads the answers of another, and writes a
        // third: with many tasks six keep both of them at work. Few operations stay together: a script
        // costs something, whatever is in it.
        Some(batch) => Limits {
            flights: NonZeroUsize::MIN.saturating_add(5),
            light_flights: NonZeroUsize::MIN.saturating_add(1),
            together: NonZeroUsize::MIN.saturating_add(7),
            ..Limits::batches_of(batch)
        },
        None => panic!("a batch holds something"),
    };
    let scripts = Scripts {
        connection: connection.clone(),
        names: Arc::clone(names),
    };
    Gate::new(scripts, LIMITS)
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
