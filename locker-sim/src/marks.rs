//! Sees the interleavings that are worth noting: with the eyes of the world, so that the processes
//! need not know of it.

use super::agenda::Part;
use super::env::Env;
use super::invariants::Fact;
use super::mark::Mark;
use super::op::{Answer, Op, Ticket, Value};
use super::process::Process;
use super::store::Kind;
use locker_core::backend::{Claimed, Released, Renewal, Settlement};
use locker_core::{ErrorKind, Key, OwnerHash, ProcessHash, Token};
use std::collections::{BTreeMap, BTreeSet};

/// What was seen so far, as far as it matters.
#[derive(Debug, Default)]
pub struct Watcher {
    /// The first grant of each owner.
    granted: BTreeSet<Box<str>>,
    /// Renewals that were sent, and not answered yet.
    renewals: BTreeMap<ProcessHash, u32>,
    renewed: BTreeSet<Ticket>,
    released: BTreeSet<Box<str>>,
    /// Take-overs without an answer.
    in_doubt: BTreeSet<Box<str>>,
    last: BTreeMap<Key, Token>,
}

fn text(owner: &OwnerHash) -> Box<str> {
    owner.as_str().into()
}

impl Watcher {
    /// A request has left.
    pub(super) fn on_sent(&mut self, op: &Op) {
        if let Op::RenewProcess(process, _) = op {
            *self.renewals.entry(process.clone()).or_default() += 1;
        }
    }

    /// The store has answered.
    pub(super) fn on_answer(
        &mut self,
        env: &mut Env,
        processes: &[Process],
        ticket: Ticket,
        answer: &Answer,
    ) {
        let flight = &env.flights[ticket.0];
        let first = self.renewed.insert(ticket);
        if let Op::RenewProcess(process, _) = &flight.op
            && first
            && let Some(open) = self.renewals.get_mut(process)
        {
            *open = open.saturating_sub(1);
        }
        let (part, op) = (flight.part, flight.op.clone());
        let sender = &processes[flight.process];
        let crashed = flight.boot != sender.boot || (!sender.up && !sender.exited);
        match answer {
            Err(error) if error.kind() == ErrorKind::Corrupt => env.log.mark(Mark::CorruptRead),
            Err(_) => {}
            Ok(reply) => match &reply.value {
                Value::Claimed(claimed) => {
                    let dropped = match part {
                        Part::Hand(id) => sender.is_leaving(id),
                        _ => false,
                    };
                    self.on_claimed(env, &op, claimed, (dropped, crashed));
                }
                Value::Released(found) => {
                    if let Op::Release(owner) = &op
                        && *found == Released::Absent
                        && self.released.contains(owner.as_str())
                    {
                        env.log.mark(Mark::ReleaseTwice);
                    }
                    if let Op::Release(owner) = &op
                        && *found == Released::Done
                    {
                        self.released.insert(text(owner));
                    }
                }
                Value::Settled(Settlement::Open(_)) => env.log.mark(Mark::SettledOpen),
                Value::Settled(Settlement::Final(Released::Done)) => {
                    env.log.mark(Mark::SettledFound);
                }
                Value::Renewed(Renewal::Gone) => env.log.mark(Mark::RecordGone),
                _ => {}
            },
        }
    }

    fn on_claimed(
        &mut self,
        env: &mut Env,
        op: &Op,
        claimed: &Claimed,
        (dropped, crashed): (bool, bool),
    ) {
        let (claim, take_over) = match op {
            Op::TryCreate(claim) => (claim, false),
            Op::TakeOver(claim, _) => (claim, true),
            _ => return,
        };
        match claimed {
            Claimed::Granted(_) => {
                if !self.granted.insert(text(&claim.owner)) {
                    env.log.mark(if take_over {
                        Mark::TookOverAgain
                    } else {
                        Mark::GrantedAgain
                    });
                } else if crashed {
                    env.log.mark(Mark::LandedAfterCrash);
                } else if dropped {
                    env.log.mark(Mark::LandedAfterDrop);
                }
            }
            Claimed::TooLate if take_over => {
                env.log.mark(Mark::TakeOverTooLate);
                if self.in_doubt.contains(claim.owner.as_str()) {
                    env.log.mark(Mark::TakeOverTooLateAfterDoubt);
                }
            }
            Claimed::TooLate => env.log.mark(Mark::ClaimTooLate),
            Claimed::Absent => env.log.mark(Mark::TakeOverOfNothing),
            Claimed::OwnerDead => env.log.mark(Mark::OwnerDead),
            Claimed::Held(_) if take_over => env.log.mark(Mark::TakeOverOfTheLiving),
            Claimed::Held(_) => {}
        }
    }

    /// A request has ended without an answer for its sender.
    pub(super) fn on_silence(&mut self, op: &Op) {
        if let Op::TakeOver(claim, _) = op {
            self.in_doubt.insert(text(&claim.owner));
        }
    }

    /// Something happened.
    pub(super) fn on_fact(&mut self, env: &mut Env, fact: &Fact) {
        if let Fact::Record {
            before: Some(before),
            after: Some(after),
            ..
        } = fact
            && before.owner != after.owner
            && self
                .renewals
                .get(before.owner.process())
                .is_some_and(|open| *open > 0)
        {
            env.log.mark(Mark::TakeOverDuringARenewal);
        }
        if let Some(new) = fact.new_owner()
            && env.plan.kind != Kind::Etcd
        {
            let last = self.last.insert(new.owner.key().clone(), new.token);
            if last.is_some_and(|last| last.get() + 1 == new.token.get()) {
                env.log.mark(Mark::TokenAheadOfClock);
            }
        }
    }
}
