//! A clone of a running process (against A6): a snapshot of its machine, restored beside it.
//!
//! The twin has the same incarnation, the same guards and the same numbers for the next ones, and
//! goes its own way from there. Machines are not copied, on purpose: so the twin begins its own under
//! the old names, at the deadlines that the original had, and what was being acquired is left to the
//! original.

use super::super::env::Env;
use super::super::fault::Fault;
use super::hand::{Hand, Held, Life, Stage};
use super::task::{Doing, Task};
use super::{Process, Reporter, Upkeep};
use locker_core::backend::{Birth, Reply};
use locker_core::machine::{Report, Step, Tenure};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Process {
    /// The twin of a process that lives, in this place of the cluster; `None` if there is nothing
    /// about it to be cloned.
    pub fn clone_running(&self, env: &mut Env, index: usize) -> Option<Self> {
        let now = self.now(env);
        let life = self.reporter.life.as_ref()?;
        let until = life.deadline.get().filter(|until| now < *until)?;
        let holds = |hand: &Hand| matches!(hand.stage, Stage::Held(_));
        if !self.up || self.draining || !self.hands.values().any(holds) {
            return None;
        }
        env.log.fault(Fault::Cloned);
        env.note(self.index, format_args!("is cloned as p{index}"));
        let mut twin = Self {
            index,
            boot: self.boot,
            up: true,
            exited: false,
            twin_of: Some(life.process.clone()),
            names: BTreeSet::from([life.process.clone()]),
            hands: BTreeMap::new(),
            draining: false,
            clock: self.clock,
            host: self.host.clone(),
            timing: self.timing,
            origin: self.origin,
            store_clock: self.store_clock,
            next_hand: self.next_hand,
            stopped_until: self.stopped_until,
            stalled_until: self.stalled_until.clone(),
            read: None,
            reporter: Reporter::default(),
            upkeep: Upkeep::default(),
            watchdog_due: None,
            tasks: Vec::new(),
        };
        let life = twin.live_on(env, life, until)?;
        for (place, task) in self.tasks.iter().enumerate() {
            let mut copy = Task::new(env, now, place);
            copy.manner = task.manner;
            if let Doing::Working {
                hand,
                ends,
                next_beat,
            } = task.doing
                && let Some(held) = self.hands.get(&hand)
            {
                twin.hold_on(env, hand, held, &life);
                copy.doing = Doing::Working {
                    hand,
                    ends,
                    next_beat,
                };
            }
            twin.tasks.push(copy);
        }
        twin.begin_upkeep(env);
        for task in 0..twin.tasks.len() {
            twin.wake_task(env, task);
        }
        Some(twin)
    }

    /// Reports on under the same name, from the deadline that there is.
    fn live_on(
        &mut self,
        env: &mut Env,
        life: &Arc<Life>,
        until: locker_core::Instant,
    ) -> Option<Arc<Life>> {
        let ttl = self.timing.liveness_ttl;
        let origin = locker_core::Instant::ZERO + ttl * 1000;
        let lasts = self.timing.valid_until(origin, ttl).since(origin);
        let sent = until - lasts;
        let Step::Call(machine, _) = Report::begin(sent, life.process.clone(), self.timing, 1)
        else {
            return None;
        };
        let reply = Reply {
            value: Birth::Created { valid_for: ttl },
            store_time: None,
        };
        let now = self.now(env);
        let Step::Sleep(machine, due) = machine.on_birth(now, Ok(reply)) else {
            return None;
        };
        let life = Arc::new(Life {
            process: life.process.clone(),
            deadline: Arc::clone(machine.deadline()?),
            since: life.since,
        });
        self.reporter.resume(machine, due, Arc::clone(&life));
        self.wake_at(env, super::Part::Reports, due);
        Some(life)
    }

    /// Holds a lock under the same name.
    fn hold_on(&mut self, env: &Env, id: u32, hand: &Hand, life: &Arc<Life>) {
        let Stage::Held(held) = &hand.stage else {
            return;
        };
        let now = self.now(env);
        let until = held.tenure.hard_deadline().unwrap_or(now);
        let beats = held.tenure.last_beat();
        let tenure = Arc::new(Tenure::new(
            hand.owner.clone(),
            beats,
            until,
            Arc::clone(&life.deadline),
            None,
            self.timing.stop_budget,
        ));
        let copy = Hand {
            owner: hand.owner.clone(),
            life: Arc::clone(life),
            task: hand.task,
            in_flight: None,
            due: None,
            stage: Stage::Held(Held {
                tenure,
                token: held.token,
                unsettled: held.unsettled,
                let_go: held.let_go,
                announced: false,
            }),
        };
        self.hands.insert(id, copy);
    }
}
