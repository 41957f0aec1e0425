//! One connection to the store, with what every operation needs beside it.

use crate::cluster::primaries::{By, Death, Waits};
use crate::config::Shared;
use crate::connection::{Connection, Source};
use crate::gather::Gathering;
use crate::names::Names;
use crate::script::{self, Answered, Argument, BATCH, Member, MemberAnswer};
use futures_util::future::join_all;
use locker_core::{BackendError, Effect, Key};
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

    /// The same, and who has answered.
    ///
    /// # Cancel safety
    ///
    /// As [`send_one`](Self::send_one).
    pub(crate) async fn send_to_whom(
        &self,
        member: Member,
    ) -> Result<(Answered, By), BackendError> {
        if let Some(Gathering::Cluster(primaries)) = &self.gathering {
            return primaries.ask_whom(member).await;
        }
        let by = if self.connection.is_cluster() {
            By::Client
        } else {
            By::Server
        };
        Ok((self.send_one(member).await?, by))
    }

    /// Reads the process under this key, for somebody to whom the answer means this.
    ///
    /// # Errors
    ///
    /// When it was not answered.
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub(crate) async fn read_process_at_key(&self, process: &str, death: Death) -> MemberAnswer {
        match &self.gathering {
            Some(Gathering::Cluster(primaries)) => primaries.read_process(process, death).await,
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
        let sent = join_all(members.chunks(BATCH).map(one)).await;
        let errors: Vec<_> = sent
            .iter()
            .filter_map(|batch| batch.as_ref().err())
            .collect();
        if errors.len() == sent.len()
            && let Some(whole) = weightiest(errors)
        {
            return Err(whole.clone());
        }
        let mut answers = Vec::with_capacity(members.len());
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
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Member {
        Member::new(self.names.lock(key), operation, arguments)
    }
}

/// If nothing was answered at all the whole request has failed: whoever asked must not take the errors for
/// a sign that the connection lives, and must know when it is to be closed. That is so only where every
/// member says it, and nothing counts as undone of which a part may have been done.
fn all_or_each(answers: Vec<MemberAnswer>) -> Result<Vec<MemberAnswer>, BackendError> {
    let unanswered = |answer: &MemberAnswer| {
        answer
            .as_ref()
            .is_err_and(|cause| cause.kind().breaks_connection() || cause.is_unanswered())
    };
    if !answers.iter().all(unanswered) {
        return Ok(answers);
    }
    let errors = answers.iter().filter_map(|answer| answer.as_ref().err());
    match weightiest(errors) {
        Some(whole) => Err(whole.clone()),
        None => Ok(answers),
    }
}

/// The error that stands for all of them.
fn weightiest<'e>(errors: impl IntoIterator<Item = &'e BackendError>) -> Option<&'e BackendError> {
    errors.into_iter().max_by_key(|cause| {
        let leaves_open = !cause.kind().breaks_connection();
        (cause.effect() == Effect::Unknown, leaves_open)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error;
    use locker_core::{ErrorKind, StoreTime};

    fn answered() -> Answered {
        Answered {
            time: StoreTime::from_micros(1),
            fields: Vec::new(),
        }
    }

    fn broke() -> BackendError {
        error::straggler()
    }

    fn gone() -> BackendError {
        error::unavailable("the server is gone")
    }

    fn late() -> BackendError {
        BackendError::timeout()
    }

    fn busy() -> BackendError {
        let text = "somebody's slow script";
        BackendError::new(ErrorKind::Busy, Effect::NotApplied, text)
    }

    #[test]
    fn what_was_answered_in_part_is_told_apart() {
        for answers in [
            vec![],
            vec![Ok(answered())],
            vec![Err(broke()), Ok(answered())],
            vec![Err(late()), Err(gone()), Err(busy())],
        ] {
            let many = answers.len();
            assert_eq!(all_or_each(answers).unwrap().len(), many);
        }
    }

    #[test]
    fn what_was_not_answered_at_all_has_failed_as_a_whole() {
        for (answers, kind, effect) in [
            (vec![broke(), broke()], ErrorKind::Busy, Effect::Unknown),
            (
                vec![gone(), gone()],
                ErrorKind::Unavailable,
                Effect::NotApplied,
            ),
            // A part may have been done.
            (
                vec![gone(), late(), gone()],
                ErrorKind::Timeout,
                Effect::Unknown,
            ),
            // A part of the connection may be sound.
            (
                vec![broke(), gone(), late()],
                ErrorKind::Busy,
                Effect::Unknown,
            ),
            // What may have been done weighs more than that.
            (
                vec![busy().unanswered(), late()],
                ErrorKind::Timeout,
                Effect::Unknown,
            ),
        ] {
            let answers = answers.into_iter().map(Err);
            let whole = all_or_each(answers.collect()).unwrap_err();
            assert_eq!((whole.kind(), whole.effect()), (kind, effect));
            assert!(whole.kind().breaks_connection() || whole.is_unanswered());
        }
    }
}
