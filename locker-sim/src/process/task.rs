//! A user's task: it wants a lock, works under it, gives it back, and begins again. The user may
//! drop whatever it is at, at any moment. The work itself is in `job`.

use super::super::agenda::{Call, Part};
use super::super::env::Env;
use super::super::fault::Fault;
use super::super::invariants::HandRef;
use super::Process;
use super::hand::{Hand, Stage};
use locker_core::machine::Acquire;
use locker_core::{Instant, OwnerHash};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A lock that a task wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) key: usize,
    pub(super) wait_until: Option<Instant>,
}

/// How a job behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// How long it works.
    pub(super) works_for: Duration,
    /// Whether a job that does not beat loses its lock.
    pub(super) beats_required: bool,
    /// How often it beats, if it does.
    pub(super) beats_every: Option<Duration>,
    /// Whether it stops when its lock is lost; if not, it is told, and goes on for so long.
    pub(super) lingers: Option<Duration>,
    /// Whether it gives the lock back, or drops its guard.
    pub(super) releases: bool,
}

/// A user's task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) doing: Doing,
    pub(super) manner: Manner,
    due: Option<Instant>,
    /// What it wants after the faults: every key once.
    pub(super) last_wishes: VecDeque<usize>,
    healed: bool,
}

#[derive(Debug)]
pub(super) enum Doing {
    Nothing,
    /// It waits for an incarnation, to ask as one.
    NeedsLife {
        wish: Wish,
        life_by: Instant,
    },
    Asking {
        hand: u32,
        wish: Wish,
    },
    Working {
        hand: u32,
        ends: Instant,
        next_beat: Option<Instant>,
    },
    Releasing {
        hand: u32,
        gives_up: Instant,
        sound: bool,
    },
    Finished,
}

impl Task {
    pub(super) fn new(env: &mut Env, now: Instant, place: usize) -> Self {
        let manner = Manner::draw(env);
        let pause = env.rng.between(Duration::ZERO, Duration::from_millis(300));
        let mut task = Self {
            doing: Doing::Nothing,
            manner,
            due: Some(now + pause),
            last_wishes: VecDeque::new(),
            healed: false,
        };
        if env.healed {
            task.heal(env, place);
        }
        task
    }

    fn heal(&mut self, env: &Env, place: usize) {
        if !self.healed {
            self.healed = true;
            let keys = env.keys.len();
            self.last_wishes = (0..keys).map(|key| (key + place) % keys).collect();
        }
    }

    pub(super) fn has_finished(&self) -> bool {
        matches!(self.doing, Doing::Finished) && self.healed && self.last_wishes.is_empty()
    }

    pub(super) fn beats_required(&self) -> bool {
        self.manner.beats_required
    }
}

impl Manner {
    fn draw(env: &mut Env) -> Self {
        if env.plan.stall_only && !env.healed {
            return Self {
                works_for: env.rng.between(Duration::ZERO, Duration::from_secs(3)),
                beats_required: true,
                beats_every: Some(Duration::from_millis(200)),
                lingers: None,
                releases: true,
            };
        }
        if env.healed {
            return Self {
                works_for: env.rng.between(Duration::ZERO, Duration::from_millis(20)),
                beats_required: true,
                beats_every: Some(Duration::from_millis(200)),
                lingers: None,
                releases: true,
            };
        }
        let longest = [5, 100, 1000, 8000][env.rng.below(4)];
        let every = if env.rng.chance(80) {
            // Just often enough, or not quite.
            env.rng
                .between(Duration::from_millis(4900), Duration::from_millis(5020))
        } else {
            env.rng
                .between(Duration::from_millis(20), Duration::from_millis(800))
        };
        Self {
            works_for: env
                .rng
                .between(Duration::ZERO, Duration::from_millis(longest)),
            beats_required: env.rng.chance(700),
            beats_every: env.rng.chance(850).then_some(every),
            lingers: env
                .rng
                .chance(300)
                .then(|| env.rng.between(Duration::ZERO, Duration::from_millis(2000))),
            releases: env.rng.chance(750),
        }
    }
}

impl Process {
    /// What is wrong between the guards of the tasks and the records of the process, if anything is.
    pub fn guard_without_record(&self) -> Option<String> {
        for (place, task) in self.tasks.iter().enumerate() {
            let (hand, held) = match &task.doing {
                Doing::Working { hand, .. } => (hand, true),
                Doing::Asking { hand, .. } => (hand, false),
                _ => continue,
            };
            let recorded = self.hands.get(hand).is_some_and(|it| match &it.stage {
                Stage::Held(_) => held && it.task == place,
                Stage::Asking(_) => !held && it.task == place,
                Stage::Leaving(_) => false,
            });
            if !recorded {
                let (index, hands) = (self.index, &self.hands);
                return Some(format!(
                    "p{index}: task {place} is at {task:?}, of {hands:?}"
                ));
            }
        }
        let idle = self.hands.iter().find(|(id, hand)| match &hand.stage {
            Stage::Held(_) => !matches!(
                self.tasks.get(hand.task).map(|task| &task.doing),
                Some(Doing::Working { hand: at, .. }) if at == *id
            ),
            Stage::Asking(_) | Stage::Leaving(_) => false,
        });
        idle.map(|(_, hand)| format!("p{} holds {}, and no job does", self.index, hand.owner))
    }

    /// Whether somebody waits for this key, whatever the wish was, and is able to ask.
    pub fn waits_for(&self, key: &locker_core::Key, at: Duration) -> bool {
        let waits = |hand: &Hand| match &hand.stage {
            Stage::Asking(asking) => asking.machine.as_ref().is_some_and(Acquire::is_waiting),
            Stage::Held(_) | Stage::Leaving(_) => false,
        };
        let mut hands = self.hands.values();
        self.up && hands.any(|hand| hand.owner.key() == key && waits(hand) && self.runs(hand, at))
    }

    /// Whether the machine runs, and the thread of this hand.
    fn runs(&self, hand: &Hand, at: Duration) -> bool {
        self.stopped_until.max(self.stalled_until[1 + hand.task]) <= at
    }

    /// Who waits for this key, is told by the store that it is free, and can do something about it at
    /// once. In the driver only the first of a process is enrolled; where more are, this one is none.
    pub fn told_of(&self, key: &locker_core::Key, at: Duration) -> Option<(HandRef, &OwnerHash)> {
        let mut asking = self
            .hands
            .iter()
            .filter(|(_, hand)| hand.owner.key() == key && matches!(hand.stage, Stage::Asking(_)));
        let (Some((id, hand)), None) = (asking.next(), asking.next()) else {
            return None;
        };
        let ready =
            self.runs(hand, at) && hand.in_flight.is_none() && self.is_told((self.boot, *id));
        ready.then(|| (HandRef::new(self.index, self.boot, *id), &hand.owner))
    }

    /// Whether this hand still waits, by an incarnation that goes on, and is told by the store.
    pub fn is_told(&self, (boot, hand): (u32, u32)) -> bool {
        let lives = |hand: &&Hand| {
            let life = self.reporter.life.as_ref();
            life.is_some_and(|life| Arc::ptr_eq(life, &hand.life))
        };
        let same = self.up && self.boot == boot;
        let hand = self.hands.get(&hand).filter(|_| same);
        hand.filter(lives).is_some_and(Hand::is_told)
    }

    pub(super) fn wake_task(&mut self, env: &mut Env, task: usize) {
        let now = self.now(env);
        match &self.tasks[task].doing {
            Doing::Nothing => {
                if self.tasks[task].due.is_some_and(|due| now >= due) {
                    self.wish(env, task);
                } else if let Some(due) = self.tasks[task].due {
                    self.wake_at(env, Part::Task(task), due);
                }
            }
            Doing::NeedsLife { wish, life_by } => {
                let (wish, life_by) = (*wish, *life_by);
                self.seek_life(env, task, wish, life_by);
            }
            Doing::Working { .. } => self.work(env, task),
            Doing::Releasing { hand, gives_up, .. } => {
                let (hand, gives_up) = (*hand, *gives_up);
                if now >= gives_up {
                    self.stop_waiting_for_release(env, hand);
                }
            }
            Doing::Asking { .. } | Doing::Finished => {}
        }
    }

    /// Chooses a lock to want, or ends.
    fn wish(&mut self, env: &mut Env, place: usize) {
        let now = self.now(env);
        let task = &mut self.tasks[place];
        if self.draining || (task.healed && task.last_wishes.is_empty()) {
            task.doing = Doing::Finished;
            let all_finished = self.tasks.iter().all(Task::has_finished);
            if all_finished {
                self.drain(env);
            }
            return;
        }
        task.manner = Manner::draw(env);
        let wish = match task.last_wishes.front() {
            Some(key) => Wish {
                key: *key,
                wait_until: Some(Instant::FAR_FUTURE),
            },
            None => Wish {
                key: env.rng.below(env.keys.len()),
                wait_until: match env.rng.below(4) {
                    0 => None,
                    1 => Some(now + env.rng.between(Duration::ZERO, Duration::from_millis(500))),
                    2 => Some(now + env.rng.between(Duration::ZERO, Duration::from_secs(4))),
                    _ => Some(Instant::FAR_FUTURE),
                },
            },
        };
        let ask_until = now + self.timing.request_timeout * 2 + self.timing.retry_after;
        let life_by = ask_until.max(wish.wait_until.unwrap_or(Instant::ZERO));
        self.seek_life(env, place, wish, life_by);
    }

    fn seek_life(&mut self, env: &mut Env, task: usize, wish: Wish, life_by: Instant) {
        let now = self.now(env);
        if self.draining || now >= life_by {
            return self.rest(env, task);
        }
        let Some(life) = self.recent_life(now) else {
            self.tasks[task].doing = Doing::NeedsLife { wish, life_by };
            return self.wake_at(env, Part::Task(task), now + self.timing.retry_after);
        };
        let hand = self.next_hand_id();
        self.tasks[task].doing = Doing::Asking { hand, wish };
        self.ask(env, task, wish, life, life_by);
        if env.strikes(200) {
            self.plan_drop(env, task, hand);
        }
    }

    /// Decides when the user drops what the task is at: soon, so that requests are in flight, or
    /// some time later.
    pub(super) fn plan_drop(&mut self, env: &mut Env, task: usize, hand: u32) {
        let longest = [6, 60, 1500][env.rng.below(3)];
        let after = env
            .rng
            .between(Duration::ZERO, Duration::from_millis(longest));
        env.knock(env.at + after, self.id(), Call::Drop { task, hand });
    }

    fn next_hand_id(&self) -> u32 {
        self.next_hand
    }

    /// Rests before it begins again.
    pub(super) fn rest(&mut self, env: &mut Env, task: usize) {
        let longest = if env.healed { 20 } else { 400 };
        let pause = env
            .rng
            .between(Duration::ZERO, Duration::from_millis(longest));
        let due = self.now(env) + pause;
        self.tasks[task].doing = Doing::Nothing;
        self.tasks[task].due = Some(due);
        self.wake_at(env, Part::Task(task), due);
    }

    /// The acquisition ended without a lock.
    pub(super) fn refused(&mut self, env: &mut Env, task: usize) {
        self.rest(env, task);
    }

    /// The incarnation ended under the acquisition: it goes on as the next one.
    pub(super) fn ask_again(&mut self, env: &mut Env, task: usize, life_by: Instant) {
        if let Doing::Asking { wish, .. } = self.tasks[task].doing {
            self.seek_life(env, task, wish, life_by);
        }
    }

    /// The user drops what this task is at.
    pub(super) fn on_drop(&mut self, env: &mut Env, task: usize, hand: u32) {
        match &self.tasks[task].doing {
            Doing::Asking { hand: at, .. } if *at == hand => {
                self.drop_asking(env, hand);
                self.rest(env, task);
            }
            Doing::Working { hand: at, .. } if *at == hand => {
                env.log.fault(Fault::GuardDropped);
                self.depart(env, hand, false);
                self.rest(env, task);
            }
            Doing::Releasing { hand: at, .. } if *at == hand => {
                self.drop_release(env, hand);
                self.rest(env, task);
            }
            _ => {}
        }
    }

    /// Draining: waiters are sent home, those who have nothing to do end.
    pub(super) fn drain_tasks(&mut self, env: &mut Env) {
        for task in 0..self.tasks.len() {
            match &self.tasks[task].doing {
                Doing::Nothing | Doing::NeedsLife { .. } => {
                    self.tasks[task].doing = Doing::Finished;
                }
                Doing::Asking { hand, .. } => {
                    let hand = *hand;
                    let waits = match self
                        .hands
                        .get(&hand)
                        .map(|hand| (&hand.stage, hand.in_flight))
                    {
                        Some((Stage::Asking(asking), None)) => {
                            asking.machine.as_ref().is_some_and(Acquire::is_waiting)
                        }
                        _ => false,
                    };
                    if waits {
                        self.give_up_asking(env, hand, "drained");
                        self.tasks[task].doing = Doing::Finished;
                    }
                }
                Doing::Working { .. } | Doing::Releasing { .. } | Doing::Finished => {}
            }
        }
    }

    pub(super) fn heal_tasks(&mut self, env: &mut Env) {
        let now = self.now(env);
        for task in 0..self.tasks.len() {
            self.tasks[task].heal(env, task);
            match &mut self.tasks[task].doing {
                Doing::Working { ends, .. } => {
                    *ends = (*ends).min(now + Duration::from_millis(500));
                }
                // What is acquired from here on is held for a short time.
                _ => self.tasks[task].manner = Manner::draw(env),
            }
            self.wake_at(env, Part::Task(task), now);
        }
    }
}
