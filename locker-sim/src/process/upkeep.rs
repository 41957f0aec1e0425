//! What the Reporter does for held locks: extends and checks in batches, and losses told in time.

use super::super::agenda::Part;
use super::super::env::Env;
use super::super::invariants::Fact;
use super::super::mark::Mark;
use super::super::op::{Answer, Op, Ticket, told};
use super::Process;
use super::hand::Stage;
use locker_core::backend::Standing;
use locker_core::machine::hold::{Hold, Request};
use locker_core::machine::{Loss, LossReason, Step};
use locker_core::{BackendError, Instant, OwnerHash};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

type Standings = Vec<Result<Standing, BackendError>>;

/// The loop that extends and checks.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    holds: BTreeMap<u32, Hold>,
    /// What is due in this round, and not sent yet.
    queue: VecDeque<Batch>,
    in_flight: Option<(Ticket, Batch)>,
    next: Option<Instant>,
}

#[derive(Debug)]
struct Batch {
    extend: bool,
    members: Vec<(u32, Hold)>,
    owners: Vec<OwnerHash>,
    sent: Instant,
}

impl Process {
    pub(super) fn begin_upkeep(&mut self, env: &mut Env) {
        self.upkeep.next = Some(self.now(env));
        self.wake_upkeep(env);
    }

    pub(super) fn wake_upkeep(&mut self, env: &mut Env) {
        let now = self.now(env);
        let due = self.upkeep.next.is_some_and(|next| now >= next);
        if due && self.upkeep.in_flight.is_none() {
            self.round(env);
        }
    }

    fn round(&mut self, env: &mut Env) {
        let now = self.now(env);
        let mut next = now + self.timing.recheck_every;
        let batch = |extend| Batch {
            extend,
            members: Vec::new(),
            owners: Vec::new(),
            sent: now,
        };
        let (mut extends, mut checks) = (batch(true), batch(false));
        let mut machines = std::mem::take(&mut self.upkeep.holds);
        let tenures: Vec<_> = self
            .hands
            .iter()
            .filter_map(|(id, hand)| Some((*id, Arc::clone(hand.tenure()?))))
            .collect();
        for (id, tenure) in tenures {
            let step = match machines.remove(&id) {
                Some(hold) if Arc::ptr_eq(hold.tenure(), &tenure) => hold.on_wake(now),
                _ => Hold::begin(now, tenure, self.timing, self.origin),
            };
            match step {
                Step::Call(hold, request) => {
                    let (batch, owner) = match request {
                        Request::Extend(owner) => (&mut extends, owner),
                        Request::Check(owner) => (&mut checks, owner),
                    };
                    batch.members.push((id, hold));
                    batch.owners.push(owner);
                }
                Step::Sleep(hold, until) => {
                    next = next.min(until);
                    self.upkeep.holds.insert(id, hold);
                }
                Step::Done(loss) => next = next.min(self.lost(env, id, &loss)),
            }
        }
        self.upkeep.next = Some(next);
        self.upkeep.queue = [extends, checks]
            .into_iter()
            .filter(|batch| !batch.owners.is_empty())
            .collect();
        self.send_batch(env);
    }

    fn send_batch(&mut self, env: &mut Env) {
        let Some(mut batch) = self.upkeep.queue.pop_front() else {
            let next = self.upkeep.next.unwrap_or(Instant::ZERO);
            return self.wake_at(env, Part::Upkeep, next);
        };
        batch.sent = self.now(env);
        let op = if batch.extend {
            Op::Extend(batch.owners.clone(), self.timing.lock_ttl)
        } else {
            Op::Check(batch.owners.clone())
        };
        let ticket = self.send(env, Part::Upkeep, op);
        self.upkeep.in_flight = Some((ticket, batch));
    }

    pub(super) fn on_batch(&mut self, env: &mut Env, ticket: Ticket, answer: Answer) {
        let Some((_, batch)) = self
            .upkeep
            .in_flight
            .take_if(|(in_flight, _)| *in_flight == ticket)
        else {
            return;
        };
        let mut standings = told::<Standings>(answer).map(|reply| reply.value.into_iter());
        self.note_late_extension(env, &batch, standings.is_ok());
        for (id, hold) in batch.members {
            let standing = match &mut standings {
                Ok(standings) => standings
                    .next()
                    .unwrap_or_else(|| Err(BackendError::timeout())),
                Err(error) => Err(BackendError::new(error.kind(), error.effect(), "")),
            };
            // A lock that was given back meanwhile has no standing any more.
            if self
                .hands
                .get(&id)
                .is_none_or(|hand| hand.tenure().is_none())
            {
                continue;
            }
            let now = self.now(env);
            let next = match hold.on_standing(now, standing) {
                Step::Done(loss) => self.lost(env, id, &loss),
                Step::Sleep(hold, until) => {
                    self.upkeep.holds.insert(id, hold);
                    until
                }
                // Due again already: in the next round, which is now. The machine is kept, because it
                // knows what has failed.
                Step::Call(hold, _) => {
                    self.upkeep.holds.insert(id, hold);
                    now
                }
            };
            self.upkeep.next = self.upkeep.next.map(|other| other.min(next));
        }
        self.send_batch(env);
    }

    fn note_late_extension(&self, env: &mut Env, batch: &Batch, answered: bool) {
        let lost = |(id, _): &(u32, Hold)| {
            let tenure = self.hands.get(id).and_then(|hand| hand.tenure());
            tenure.is_some_and(|tenure| tenure.loss().is_some())
        };
        if batch.extend && answered && batch.members.iter().any(lost) {
            env.log.mark(Mark::ExtendedAfterLoss);
        }
    }

    /// Tells a loss, and deletes what is left when the former owner has had its time. Answers when
    /// to come back for that.
    fn lost(&mut self, env: &mut Env, id: u32, loss: &Loss) -> Instant {
        let now = self.now(env);
        self.announce(env, id, loss);
        if now < loss.safe_until {
            return loss.safe_until;
        }
        if let Some(hand) = self.hands.get_mut(&id)
            && let Stage::Held(held) = &mut hand.stage
            && !held.let_go
        {
            held.let_go = true;
            let release = Op::Release(hand.owner.clone());
            self.send(env, Part::LetGo, release);
        }
        Instant::FAR_FUTURE
    }

    /// The loop that tells losses: looks at every deadline, and comes back at the next.
    pub(super) fn watch(&mut self, env: &mut Env) {
        let now = self.now(env);
        let mut next = Instant::FAR_FUTURE;
        let held: Vec<_> = self
            .hands
            .iter()
            .filter_map(|(id, hand)| Some((*id, Arc::clone(hand.tenure()?))))
            .collect();
        for (id, tenure) in held {
            match tenure.judge(now) {
                Ok(look_again) => next = next.min(look_again),
                Err(loss) => self.announce(env, id, &loss),
            }
        }
        let asleep = self
            .watchdog_due
            .is_some_and(|due| due > now && due <= next);
        if !asleep {
            self.watchdog_due = Some(next);
            self.wake_at(env, Part::Watchdog, next);
        }
    }

    /// Tells a loss to the task, once.
    pub(super) fn announce(&mut self, env: &mut Env, id: u32, loss: &Loss) {
        if let Some(hand) = self.hands.get_mut(&id)
            && let Stage::Held(held) = &mut hand.stage
            && !std::mem::replace(&mut held.announced, true)
        {
            let (task, owner) = (hand.task, hand.owner.clone());
            env.note(self.index, format_args!("loses {owner}: {loss:?}"));
            env.log.tally.losses += 1;
            env.log.mark(match loss.reason {
                LossReason::TakenOver(_) => Mark::LostTakenOver,
                LossReason::Expired => Mark::LostExpired,
                LossReason::LivenessLapsed => Mark::LostLiveness,
                LossReason::ForceReleased => Mark::LostForced,
                _ => Mark::LostVanished,
            });
            env.facts.push(Fact::Lost { owner });
            let now = self.now(env);
            self.wake_at(env, Part::Task(task), now);
        }
    }
}
