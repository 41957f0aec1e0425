//! The job under a held lock: it beats, asks whether it should go on, may go on after a loss, and
//! gives the lock back. What it is told in the end is the driver's word, and S6 judges it.

use super::super::agenda::Part;
use super::super::env::Env;
use super::super::fault::Fault;
use super::super::invariants::{Fact, HandRef};
use super::super::mark::Mark;
use super::super::op::{Answer, Op, Ticket, told};
use super::Process;
use super::hand::Stage;
use super::task::Doing;
use locker_core::backend::{Released, Standing};
use locker_core::{BackendError, Instant, OwnerHash};
use std::time::Duration;

impl Process {
    pub(super) fn start_work(&mut self, env: &mut Env, task: usize, hand: u32) {
        let now = self.now(env);
        let manner = self.tasks[task].manner;
        if manner.beats_every.is_none() {
            env.log.fault(Fault::JobWithoutBeats);
        }
        self.tasks[task].doing = Doing::Working {
            hand,
            ends: now + manner.works_for,
            next_beat: manner.beats_every.map(|every| now + every),
        };
        self.work(env, task);
    }

    /// One poll of the job: only if its lock is good (S12), and as long as it has something to do.
    pub(super) fn work(&mut self, env: &mut Env, task: usize) {
        let now = self.now(env);
        let Doing::Working {
            hand,
            ends,
            next_beat,
        } = self.tasks[task].doing
        else {
            return;
        };
        let manner = self.tasks[task].manner;
        let Some(tenure) = self
            .hands
            .get(&hand)
            .and_then(|hand| hand.tenure())
            .cloned()
        else {
            return;
        };
        let valid = tenure.is_valid(now);
        let hand_ref = HandRef::new(self.index, self.boot, hand);
        env.facts.push(Fact::Read {
            hand: hand_ref,
            valid,
        });
        let mut ends = ends;
        let mut look_again = Instant::FAR_FUTURE;
        match tenure.judge(now) {
            Ok(next) => look_again = next,
            Err(loss) => {
                let first = match self.hands.get(&hand).map(|hand| &hand.stage) {
                    Some(Stage::Held(held)) => !held.announced,
                    _ => false,
                };
                self.announce(env, hand, &loss);
                match manner.lingers {
                    Some(time) if first || ends > now + time => ends = now + time,
                    Some(_) => {}
                    None => {
                        // The job's future is dropped, and the guard with it.
                        self.depart(env, hand, false);
                        return self.rest(env, task);
                    }
                }
            }
        }
        if now >= ends {
            return self.finish_work(env, task, hand);
        }
        let mut next_beat = next_beat;
        if let (Some(beat), Some(every)) = (next_beat, manner.beats_every)
            && now >= beat
        {
            tenure.beat(now);
            next_beat = Some(now + every);
            if env.strikes(20) {
                self.extend_by_user(env, hand, tenure.owner().clone());
            }
        }
        self.tasks[task].doing = Doing::Working {
            hand,
            ends,
            next_beat,
        };
        let next = ends.min(look_again).min(next_beat.unwrap_or(ends));
        self.wake_at(env, Part::Task(task), next);
    }

    /// The lock of this thread's job, if its end is near.
    pub(super) fn close_call(&self, env: &Env, thread: usize) -> Option<u32> {
        let task = self.tasks.get(thread.checked_sub(1)?)?;
        let Doing::Working { hand, .. } = task.doing else {
            return None;
        };
        let until = self.hands.get(&hand)?.tenure()?.valid_until()?;
        let left = until.since(self.clock.read(env.at));
        (left < Duration::from_millis(100)).then_some(hand)
    }

    /// A clone of the heartbeater, on a thread of its own.
    pub(super) fn answer_another_thread(&mut self, env: &mut Env, hand: u32) {
        let now = self.now(env);
        if let Some(tenure) = self.hands.get(&hand).and_then(|hand| hand.tenure()) {
            env.facts.push(Fact::Read {
                hand: HandRef::new(self.index, self.boot, hand),
                valid: tenure.is_valid(now),
            });
        }
    }

    /// The job has ended: `guard.release()`, or the drop of the guard.
    fn finish_work(&mut self, env: &mut Env, task: usize, hand: u32) {
        let now = self.now(env);
        let Some(tenure) = self
            .hands
            .get(&hand)
            .and_then(|hand| hand.tenure())
            .cloned()
        else {
            return;
        };
        if !self.tasks[task].manner.releases {
            env.log.fault(Fault::GuardDropped);
            self.depart(env, hand, false);
            return self.rest(env, task);
        }
        let sound = tenure.judge(now).is_ok();
        let gives_up = now + self.timing.request_timeout * 2;
        self.tasks[task].doing = Doing::Releasing {
            hand,
            gives_up,
            sound,
        };
        self.depart(env, hand, true);
        self.wake_at(env, Part::Task(task), gives_up);
        if env.strikes(150) {
            self.plan_drop(env, task, hand);
        }
    }

    /// The release has come to an end for its caller.
    pub(super) fn released(
        &mut self,
        env: &mut Env,
        task: usize,
        owner: OwnerHash,
        found: Option<&Released>,
    ) {
        let Doing::Releasing { sound, .. } = self.tasks[task].doing else {
            return;
        };
        let completed = match found {
            Some(Released::Absent | Released::Held(_)) => false,
            Some(Released::Done) | None => sound,
        };
        let key = env
            .keys
            .iter()
            .position(|key| key == owner.key())
            .unwrap_or(0);
        env.note(
            self.index,
            format_args!("release of {owner} ends with {found:?}; completed: {completed}"),
        );
        if found.is_none() {
            env.log.mark(Mark::ReleaseUnconfirmed);
        } else if !completed && sound {
            env.log.mark(Mark::LossDuringRelease);
        }
        if completed {
            env.facts.push(Fact::Completed {
                owner,
                confirmed: found.is_some(),
                sound,
            });
        } else {
            env.facts.push(Fact::Late { owner, sound });
        }
        let last_wishes = &mut self.tasks[task].last_wishes;
        if completed && last_wishes.front() == Some(&key) {
            last_wishes.pop_front();
        }
        self.rest(env, task);
    }

    /// `LockGuard::extend`, from the job.
    fn extend_by_user(&mut self, env: &mut Env, hand: u32, owner: OwnerHash) {
        let op = Op::Extend(vec![owner], self.timing.lock_ttl);
        self.send(env, Part::Extension(hand), op);
    }

    pub(super) fn on_extension(&mut self, env: &mut Env, id: u32, ticket: Ticket, answer: Answer) {
        let now = self.now(env);
        let Some(tenure) = self.hands.get(&id).and_then(|hand| hand.tenure()).cloned() else {
            return;
        };
        let standing = told::<Vec<Result<Standing, BackendError>>>(answer).and_then(|reply| {
            let mut standings = reply.value.into_iter();
            standings
                .next()
                .unwrap_or_else(|| Err(BackendError::timeout()))
        });
        let sent = self.clock.read(env.flights[ticket.0].sent);
        if let Ok(standing) = standing {
            match tenure.learn(now, standing, Some(sent), &self.timing) {
                Ok(()) => {
                    tenure.beat(now);
                }
                Err(loss) => self.announce(env, id, &loss),
            }
        }
    }
}
