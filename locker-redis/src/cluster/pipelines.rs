//! One primary of a cluster: the connection that is its own, and what is asked over it.
//!
//! Which primary that is, and who is sent to it, is the business of `chart` and `primaries`. This only
//! tells them when the chart may be wrong.

use crate::script::{self, Apart, Member, Piped, Refused};
use locker_coalesce::Carrier;
use locker_core::BackendError;
use redis::aio::MultiplexedConnection;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Sends members as pipelines over the connection of one primary, one of a single member as well.
#[derive(Debug)]
pub(crate) struct Pipelines {
    pub(crate) line: MultiplexedConnection,
    /// Set once, when the connection has broken: it is not used again.
    pub(crate) broken: Arc<AtomicBool>,
    /// Rung when the chart is to be drawn anew.
    pub(crate) outdated: Arc<Notify>,
}

/// Rings when it is dropped, unless the answer has come.
struct Unanswered<'a>(Option<&'a Notify>);

impl Pipelines {
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Sends a member by itself, if the connection has not broken.
    pub(crate) async fn send_apart(
        &self,
        member: &Member,
        how: Apart,
    ) -> Result<Piped, BackendError> {
        if self.is_broken() {
            return Ok(Err(Refused::Otherwise));
        }
        self.awaited(script::send_apart(&self.line, member, how))
            .await
    }

    /// Reads the process under this key, if the connection has not broken, and does not break.
    pub(crate) async fn read_process(
        &self,
        key: &str,
        how: Option<Apart>,
    ) -> Result<Piped, BackendError> {
        if self.is_broken() {
            self.outdated.notify_one();
            return Ok(Err(Refused::Otherwise));
        }
        let read = script::read_process_at(&self.line, key, how);
        let read = self.awaited(read).await;
        if let Ok(Err(refused)) = &read {
            self.hears(refused);
        }
        read
    }

    /// Has the chart drawn anew if no answer comes, however early whoever asks has left. A primary that
    /// stands still refuses nothing and breaks no connection, and it may have been replaced meanwhile.
    async fn awaited<T>(
        &self,
        request: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let mut unanswered = Unanswered(Some(&self.outdated));
        let answer = request.await?;
        unanswered.0 = None;
        Ok(answer)
    }

    /// Has the chart drawn anew if this speaks against it. A slot that is being moved does not, nor does
    /// a script that was forgotten.
    fn hears(&self, refused: &Refused) {
        match refused {
            Refused::Otherwise => self.outdated.notify_one(),
            Refused::TakenBy(_) | Refused::Forgotten => {}
        }
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(outdated) = self.0 {
            outdated.notify_one();
        }
    }
}

impl Carrier for Pipelines {
    type Op = Arc<Member>;
    type Answer = Piped;

    fn key(member: &Arc<Member>) -> impl Hash {
        &member.lock
    }

    async fn carry_one(&self, member: &Arc<Member>) -> Result<Piped, BackendError> {
        script::only(self.carry(std::slice::from_ref(member)).await?)
    }

    async fn carry(
        &self,
        members: &[Arc<Member>],
    ) -> Result<Vec<Result<Piped, BackendError>>, BackendError> {
        let answers = if self.is_broken() {
            members
                .iter()
                .map(|_| Ok(Err(Refused::Otherwise)))
                .collect()
        } else {
            let answers = self.awaited(script::send_piped(&self.line, members)).await;
            answers.inspect_err(|_| self.broken.store(true, Ordering::Relaxed))?
        };
        let refusals = answers
            .iter()
            .flatten()
            .filter_map(|piped| piped.as_ref().err());
        refusals.for_each(|refused| self.hears(refused));
        Ok(answers)
    }
}
