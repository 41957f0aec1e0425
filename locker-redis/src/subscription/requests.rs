//! What a subscription asks for, and what an error says of it.

use super::{PATIENCE, ROUND_TRIP};
use crate::cluster::slots::{self, Range};
use crate::connection::bounded;
use crate::error;
use crate::script::{BATCH, CLUSTER_BATCH, Member, MemberAnswer};
use crate::session::Session;
use futures_util::future::{join_all, select_ok};
use locker_core::BackendError;

/// How many a batch has at most. On a cluster one may be as long as a primary that hangs is waited for.
pub(super) fn most(session: &Session) -> usize {
    if session.connection.is_cluster() {
        CLUSTER_BATCH
    } else {
        BATCH
    }
}

/// Whose the slots of a cluster are, by the word of the first node that answers. The client chooses which one
/// it asks, and may choose one that hangs.
pub(super) async fn ranges(session: &Session) -> Option<Vec<Range>> {
    const MANY: usize = 4;
    if !session.connection.is_cluster() {
        return None;
    }
    let asked = (0..MANY).map(|_| Box::pin(slots::ask(&session.connection)));
    let first = async { Ok(select_ok(asked).await?.0) };
    bounded(ROUND_TRIP, first).await.ok()
}

/// Sends a batch of the subscription's own. On a cluster each member is bounded by itself, because what one
/// primary does not answer says nothing about what the others have.
///
/// # Errors
///
/// When the batch as a whole was not answered.
pub(super) async fn send(
    session: &Session,
    members: Vec<Member>,
) -> Result<Vec<MemberAnswer>, BackendError> {
    if !session.connection.is_cluster() {
        return bounded(PATIENCE, session.send(members)).await;
    }
    let alone = members.into_iter().map(|member| async {
        let answer = bounded(ROUND_TRIP, session.send_one(member)).await;
        answer.map_err(|cause| of_some(session, cause))
    });
    Ok(join_all(alone).await)
}

/// An error of some enrolments. On a cluster it is one about its own primary.
pub(super) fn of_some(session: &Session, cause: BackendError) -> BackendError {
    if session.connection.is_cluster() {
        error::of_one_primary(cause)
    } else {
        cause
    }
}
