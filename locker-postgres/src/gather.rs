//! What several tasks ask for while a request is in flight travels in one statement, and is one
//! commit: a commit waits for a disk, so this is where the time goes.
//!
//! `locker-coalesce` decides what travels with what, and says why nothing is sent after its caller
//! left. Here is how claims and releases are put into one statement. A take-over is not among them:
//! it waits for the row of its holder's process, and a batch waits for no row.

use crate::arguments;
use crate::lanes::{Lanes, Then};
use crate::row::{Answered, unexpected};
use crate::statement::Of;
use locker_coalesce::{Carrier, Gate, Limits};
use locker_core::backend::Claim;
use locker_core::{BackendError, Key, OwnerHash};
use sqlx::postgres::PgRow;
use std::hash::Hash;
use std::num::NonZeroUsize;

/// How many locks one statement names at most.
pub(crate) const BATCH: usize = 64;

/// What is asked of one lock.
#[derive(Debug)]
pub(crate) enum Op {
    Claim(Claim),
    Release(OwnerHash),
}

impl Op {
    fn key(&self) -> &Key {
        match self {
            Self::Claim(claim) => claim.key(),
            Self::Release(owner) => owner.key(),
        }
    }
}

/// Sends operations over the connections of one side.
#[derive(Debug)]
pub(crate) struct Statements {
    lanes: Lanes,
}

impl Statements {
    /// For what does not gather.
    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    async fn send(&self, ops: &[&Op]) -> Result<Vec<Answered>, BackendError> {
        let mut claims = Vec::new();
        let mut owners = Vec::new();
        // At which member of the statement each of them is answered: releases come first.
        let released = ops.iter().filter(|op| matches!(op, Op::Release(_))).count();
        let places = ops.iter().map(|op| match op {
            Op::Claim(claim) => {
                claims.push(claim);
                released + claims.len() - 1
            }
            Op::Release(owner) => {
                owners.push(owner);
                owners.len() - 1
            }
        });
        let places: Vec<usize> = places.collect();
        let (of, arguments, then): (Of, _, _) = if owners.is_empty() {
            (
                |all| &all.try_create,
                arguments::claims(&claims),
                Then::Nothing,
            )
        } else if claims.is_empty() {
            (
                |all| &all.release,
                arguments::owners(&owners),
                Then::WakeFreed,
            )
        } else {
            let mut both = arguments::owners(&owners);
            both.extend(arguments::claims(&claims));
            (|all| &all.release_and_try_create, both, Then::WakeFreed)
        };
        in_order(self.lanes.ask(of, arguments, then).await?, &places)
    }
}

/// The gate before the connections of one side, on the current runtime.
///
/// Most of a statement's time is a wait for the disk, and the server writes several commits to it at
/// once. So there are several statements under way, one less than there are connections: what is
/// sent never waits for one, and what does not gather has one left. That is so for few operations as
/// well: a statement that waits for somebody's lock on a row holds nobody else up. Those of them that do not
/// gather take turns, which leaves connections to the others.
pub(crate) fn before(lanes: Lanes) -> Gate<Statements> {
    const BATCHES: Limits = match NonZeroUsize::new(BATCH) {
        Some(batch) => Limits::batches_of(batch),
        None => panic!("a batch holds something"),
    };
    let flights = NonZeroUsize::new(lanes.limit() - 1).unwrap_or(NonZeroUsize::MIN);
    let limits = Limits {
        flights,
        light_flights: flights,
        ..BATCHES
    };
    Gate::new(Statements { lanes }, limits)
}

impl Carrier for Statements {
    type Op = Op;
    type Answer = Answered;

    fn key(op: &Op) -> impl Hash {
        op.key()
    }

    async fn carry_one(&self, op: &Op) -> Result<Answered, BackendError> {
        let answer = self.send(&[op]).await?.pop();
        answer.ok_or_else(|| unexpected("number of answers"))
    }

    async fn carry(&self, ops: &[Op]) -> Result<Vec<Result<Answered, BackendError>>, BackendError> {
        let ops: Vec<&Op> = ops.iter().collect();
        Ok(self.send(&ops).await?.into_iter().map(Ok).collect())
    }
}

/// Sorts the rows of a statement into the order in which they were asked for.
fn in_order(rows: Vec<PgRow>, places: &[usize]) -> Result<Vec<Answered>, BackendError> {
    let mut answers: Vec<Option<Answered>> = Vec::new();
    answers.resize_with(places.len(), || None);
    for row in rows {
        let answered = Answered::new(row)?;
        let slot = answers.get_mut(answered.member()?);
        *slot.ok_or_else(|| unexpected("member"))? = Some(answered);
    }
    let in_order = places.iter().map(|place| answers[*place].take());
    let in_order: Option<Vec<Answered>> = in_order.collect();
    in_order.ok_or_else(|| unexpected("number of answers"))
}
