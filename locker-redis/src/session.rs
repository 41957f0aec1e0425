//! One connection to the store, with what every operation needs beside it.

use crate::config::Shared;
use crate::connection::{Connection, Source};
use crate::gather::Gathering;
use crate::names::Names;
use crate::primaries::Waits;
use crate::script::{self, BATCH, Member, MemberAnswer};
use futures_util::future::join_all;
use locker_core::{BackendError, Key};
use std::sync::Arc;

/// A connection in its namespace. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) names: Arc<Names>,
    /// What the connections of one locker have in common.
    pub(crate) shared: Arc<Shared>,
    /// Where operations that are asked for at the same time are gathered.
    gathering: Option<Gathering>,
}

impl Session {
    /// A connection of the current runtime, on which every operation travels by itself.
    pub(crate) fn new(connection: Connection, names: Arc<Names>, shared: Arc<Shared>) -> Self {
        Self {
            connection,
            names,
            shared,
            gathering: None,
        }
    }

    /// The same connection, on which those of one moment travel together.
    pub(crate) async fn gathering(mut self, source: &Source) -> Self {
        let gathering = Gathering::over(source, &self.connection, &self.names);
        self.gathering = Some(gathering.await);
        self
    }

    /// Sends a batch, as it is.
    ///
    /// # Errors
    ///
    /// When the batch as a whole was not answered.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped each member was sent or never will be.
    pub(crate) async fn send(
        &self,
        members: Vec<Member>,
    ) -> Result<Vec<MemberAnswer>, BackendError> {
        script::send(&self.connection, &self.names, &members).await
    }

    /// Sends one member, with what others ask for at the same time.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the member was sent or never will be.
    pub(crate) async fn send_one(&self, member: Member) -> MemberAnswer {
        match &self.gathering {
            Some(gathering) => gathering.ask(member).await,
            None => script::send_one(&self.connection, &self.names, &member).await,
        }
    }

    /// Reads the process under this key.
    ///
    /// # Errors
    ///
    /// When it was not answered.
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub(crate) async fn read_process_at_key(&self, process: &str) -> MemberAnswer {
        match &self.gathering {
            Some(Gathering::Cluster(primaries)) => primaries.read_process(process).await,
            _ => script::send_process(&self.connection, process, script::READ, 0).await,
        }
    }

    /// Sends any number of members: to a server alone in as many batches as that takes, which travel
    /// together.
    ///
    /// # Errors
    ///
    /// When nothing was answered at all. Otherwise the members of a batch that failed have each its
    /// error.
    pub(crate) async fn send_all(
        &self,
        members: Vec<Member>,
        waits: Waits,
    ) -> Result<Vec<MemberAnswer>, BackendError> {
        if let Some(Gathering::Cluster(primaries)) = &self.gathering {
            return all_or_each(primaries.ask_all(members, waits).await);
        }
        let one = |batch| script::send(&self.connection, &self.names, batch);
        if members.len() <= BATCH {
            return all_or_each(one(&members).await?);
        }
        let mut answers = Vec::with_capacity(members.len());
        let sent = join_all(members.chunks(BATCH).map(one)).await;
        for (answer, batch) in sent.into_iter().zip(members.chunks(BATCH)) {
            match answer {
                Ok(members) => answers.extend(members),
                Err(cause) => answers.extend(batch.iter().map(|_| Err(cause.clone()))),
            }
        }
        all_or_each(answers)
    }

    pub(crate) fn member(
        &self,
        key: &Key,
        operation: &'static str,
        arguments: impl IntoIterator<Item = String>,
    ) -> Member {
        Member::new(self.names.lock(key), operation, arguments)
    }
}

/// If nothing was answered, and the connection is to blame, the whole request has failed: whoever
/// asked must know that the connection is to be closed.
fn all_or_each(answers: Vec<MemberAnswer>) -> Result<Vec<MemberAnswer>, BackendError> {
    let broken = |answer: &MemberAnswer| {
        answer
            .as_ref()
            .is_err_and(|cause| cause.kind().breaks_connection())
    };
    if !answers.is_empty() && answers.iter().all(broken) {
        let mut answers = answers;
        return answers.swap_remove(0).map(|_| Vec::new());
    }
    Ok(answers)
}
