//! Postgres: rows that are locked, snapshots, and commits that take their time.
//!
//! * What a request *reads* is what has been committed; what it *decides about* is a row that it has
//!   locked, and then waits for whoever has it; the clock is read after that.
//! * What it writes is there for others only when it is committed, which may take long: a disk, a
//!   synchronous standby. Its answer comes then.
//! * In every other history a process is dead only when its session has ended as well, or when nothing
//!   was heard of it for long.
//! * A wait ends after `lock_timeout`, a crash rolls back what was not committed.
//!
//! Within the assumptions its clock may be stepped and its server may crash; against them a standby
//! that has not got the last commits is promoted, or the clock leaps.

use super::ledger::{Ledger, Life, Lock, corrupt, micros};
use super::redis::{Node, released, turned_away};
use super::{Asked, Holder, StoreModel, refusal, timeless};
use crate::fault::Fault;
use crate::mark::Mark;
use crate::op::{Answer, Op, Outbox, Subscription, Ticket, Value};
use crate::plan::{BELIEVED, Plan};
use crate::rng::Rng;
use locker_core::backend::{Birth, Renewal, Reply, Standing};
use locker_core::{ErrorKind, Key, OwnerHash, ProcessHash};
use std::time::Duration;

/// `lock_timeout`, in proportion to the request timeout of 300 ms.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// Postgres.
#[derive(Debug)]
pub struct Postgres {
    /// What is committed.
    node: Node,
    at: Duration,
    rng: Rng,
    /// For how long a session is believed without a report, where it is.
    believed: Option<u64>,
    /// How often in a thousand a commit takes its time.
    slow_commits: u32,
    commits_stall_until: Duration,
    open: Vec<Transaction>,
    queue: Vec<Waiting>,
    keys: Vec<Key>,
}

/// What is executed and not committed.
#[derive(Debug)]
struct Transaction {
    ticket: Ticket,
    op: Op,
    commits_at: Duration,
    rows: Rows,
    locks: Vec<(Key, Lock)>,
    life: Option<(ProcessHash, Life)>,
    /// Whom it judged dead, by which record.
    victim: Option<(ProcessHash, Option<Life>)>,
    answer: Answer,
}

/// A request that waits for a row.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    op: Op,
    until: Duration,
}

/// The rows that a request locks.
#[derive(Debug, Clone, Default)]
struct Rows {
    key: Option<Key>,
    process: Option<ProcessHash>,
    /// Whether the process is only kept from being changed.
    shared: bool,
}

impl Postgres {
    /// An empty schema.
    pub fn new(plan: &Plan) -> Self {
        Self {
            node: Node::new(plan.store_rate, plan),
            at: Duration::ZERO,
            rng: Rng::new(plan.seed),
            believed: plan.sessions.then(|| micros(BELIEVED)),
            slow_commits: plan.slow_commits,
            commits_stall_until: Duration::ZERO,
            open: Vec::new(),
            queue: Vec::new(),
            keys: plan.key_names(),
        }
    }

    fn committed(&self) -> &Ledger {
        &self.node.ledger
    }

    /// Which rows a request locks, by what is committed.
    fn rows(&self, op: &Op) -> Rows {
        let now = self.node.now();
        let record = |key: &Key| self.committed().record(now, key);
        let is_of =
            |owner: &OwnerHash| record(owner.key()).is_some_and(|it| it.data.owner == *owner);
        let key = |key: &Key| Rows {
            key: Some(key.clone()),
            ..Rows::default()
        };
        match op {
            // A lock that is visibly somebody else's is not even locked.
            Op::TryCreate(claim) => match record(claim.key()) {
                Some(other) if other.data.owner != claim.owner => Rows::default(),
                _ => key(claim.key()),
            },
            Op::TakeOver(claim, _) => Rows {
                key: Some(claim.key().clone()),
                process: record(claim.key()).map(|it| it.data.process().clone()),
                shared: true,
            },
            // A batch waits for no row.
            Op::Extend(owners, _) if owners.len() == 1 && is_of(&owners[0]) => key(owners[0].key()),
            Op::Release(owner) if is_of(owner) => key(owner.key()),
            Op::Settle(owner, _) | Op::Mark(owner) => key(owner.key()),
            Op::Watch(wanted, ..) => key(wanted),
            Op::CreateProcess(process, _)
            | Op::RenewProcess(process, _)
            | Op::RetireProcess(process) => Rows {
                process: Some(process.clone()),
                ..Rows::default()
            },
            _ => Rows::default(),
        }
    }

    fn is_locked(&self, key: &Key) -> bool {
        let mut open = self.open.iter();
        open.any(|it| it.rows.key.as_ref() == Some(key) || it.locks.iter().any(|(k, _)| k == key))
    }

    fn is_in_the_way(&self, rows: &Rows) -> bool {
        if rows.key.as_ref().is_some_and(|key| self.is_locked(key)) {
            return true;
        }
        let Some(process) = &rows.process else {
            return false;
        };
        let mut open = self.open.iter().map(|it| &it.rows);
        open.any(|it| it.process.as_ref() == Some(process) && !(it.shared && rows.shared))
    }

    fn ask(&mut self, ticket: Ticket, op: &Op, waited: bool, out: &mut Outbox) -> bool {
        let rows = self.rows(op);
        if self.is_in_the_way(&rows) {
            return false;
        }
        self.execute(ticket, op, rows, waited, out);
        true
    }

    fn execute(&mut self, ticket: Ticket, op: &Op, rows: Rows, waited: bool, out: &mut Outbox) {
        let now = self.node.now();
        match op {
            Op::Watch(key, process, who) => {
                self.node.waiters.enrol(key, process, *who);
                return out.answers.push((ticket, timeless(Value::Done)));
            }
            Op::Unwatch(who) => {
                self.node.waiters.withdraw(*who);
                return out.answers.push((ticket, timeless(Value::Done)));
            }
            _ => {}
        }
        let mut after = self.committed().clone();
        let mut answer = after.apply(now, op, true);
        self.node.clock.told(op, &answer);
        self.keep_session(op, &answer);
        if waited && matches!(op, Op::Settle(..)) {
            out.marks.push(Mark::SettledBehindACommit);
        }
        if let Op::Extend(owners, _) = op
            && owners.len() > 1
        {
            self.skip_locked(owners, &mut after, &mut answer);
        }
        let before = self.committed();
        let changed = after
            .locks
            .iter()
            .filter(|(key, lock)| before.locks.get(*key) != Some(*lock));
        let locks: Vec<_> = changed
            .map(|(key, lock)| (key.clone(), lock.clone()))
            .collect();
        let life = rows
            .process
            .as_ref()
            .filter(|_| !rows.shared)
            .and_then(|process| {
                let life = after.processes.get(process)?;
                (before.processes.get(process) != Some(life)).then(|| (process.clone(), *life))
            });
        if locks.is_empty() && life.is_none() {
            // Its record has run out already.
            if let Op::RetireProcess(process) = op {
                self.node.ledger.sessions.forget(process);
            }
            return out.answers.push((ticket, answer));
        }
        let judged = rows.process.clone().filter(|_| rows.shared);
        let victim = judged
            .filter(|process| before.dead_at(now, process).is_none())
            .map(|process| (process.clone(), before.processes.get(&process).copied()));
        let mut commits_at = self.at;
        if waited {
            commits_at += Duration::from_micros(30);
        }
        if self.rng.chance(self.slow_commits) {
            out.faults.push(Fault::CommitDelayed);
            let longest = [20, 250, 900][self.rng.below(3)];
            commits_at += self
                .rng
                .between(Duration::from_millis(1), Duration::from_millis(longest));
        }
        let transaction = Transaction {
            ticket,
            op: op.clone(),
            commits_at: commits_at.max(self.commits_stall_until),
            rows,
            locks,
            life,
            victim,
            answer,
        };
        if transaction.commits_at > self.at {
            self.open.push(transaction);
        } else {
            self.commit(transaction, out);
        }
    }

    /// A session's lock is taken at once, whatever becomes of the transaction.
    fn keep_session(&mut self, op: &Op, answer: &Answer) {
        let reported = answer.as_ref().is_ok_and(|reply| {
            matches!(
                reply.value,
                Value::Born(Birth::Created { .. }) | Value::Renewed(Renewal::Renewed { .. })
            )
        });
        if let Op::CreateProcess(process, _) | Op::RenewProcess(process, _) = op
            && reported
            && self.believed.is_some()
        {
            self.node.ledger.sessions.keep(process);
        }
    }

    /// The members of a batch whose rows somebody else has locked are Busy, and unchanged.
    fn skip_locked(&self, owners: &[OwnerHash], after: &mut Ledger, answer: &mut Answer) {
        let Ok(Reply {
            value: Value::Standings(standings),
            ..
        }) = answer
        else {
            return;
        };
        for (owner, standing) in owners.iter().zip(standings) {
            if self.is_locked(owner.key()) && matches!(standing, Ok(Standing::Mine)) {
                *standing = Err(refusal(ErrorKind::Busy, "the row is locked"));
                if let Some(lock) = self.committed().locks.get(owner.key()) {
                    after.locks.insert(owner.key().clone(), lock.clone());
                }
            }
        }
    }

    fn commit(&mut self, done: Transaction, out: &mut Outbox) {
        self.node.note();
        let now = self.node.now();
        let freed = match &done.op {
            Op::RetireProcess(process) => self.committed().of_process(now, process),
            op => {
                let value = done.answer.as_ref().ok().map(|reply| &reply.value);
                released(op, value).into_iter().collect()
            }
        };
        if let Some((process, life)) = &done.life
            && life.expires > now
            && self.committed().life(now, process).is_none()
        {
            out.revived = Some(process.clone());
        }
        let unchanged = |(process, life): &(ProcessHash, Option<Life>)| {
            self.committed().processes.get(process).copied() == *life
        };
        out.judged_dead = done.victim.filter(unchanged).map(|(process, _)| process);
        let ledger = &mut self.node.ledger;
        if let Some((process, life)) = &done.life {
            match (self.believed, &done.op) {
                (Some(_), Op::RetireProcess(_)) => ledger.sessions.forget(process),
                (Some(believed), _) => ledger.sessions.believe(process, life.alive_at + believed),
                (None, _) => {}
            }
        }
        ledger.locks.extend(done.locks);
        ledger.processes.extend(done.life);
        for key in freed {
            let ledger = &self.node.ledger;
            let lives = |process: &ProcessHash| ledger.life(now, process).is_some();
            self.node.waiters.wake(&key, lives, out);
        }
        out.by = Some(done.ticket);
        out.answers.push((done.ticket, done.answer));
    }

    /// Lets those go on that wait for nobody any more, in the order in which they came.
    fn go_on(&mut self, out: &mut Outbox) {
        let mut place = 0;
        while place < self.queue.len() {
            let (ticket, op) = (self.queue[place].ticket, self.queue[place].op.clone());
            if self.ask(ticket, &op, true, out) {
                out.marks.push(match op {
                    Op::RenewProcess(..) => Mark::RenewalWaitedForATakeOver,
                    Op::TakeOver(..) => Mark::TakeOverWaitedForACommit,
                    _ => Mark::RequestWaitedForARow,
                });
                self.queue.remove(place);
            } else {
                place += 1;
            }
        }
    }
}

impl StoreModel for Postgres {
    fn advance(&mut self, at: Duration) {
        self.at = at;
        self.node.advance(at);
    }

    fn receive(&mut self, asked: Asked<'_>, out: &mut Outbox) {
        if self.node.is_down() {
            return turned_away(asked, self.node.refuses(), out);
        }
        if asked
            .op
            .key()
            .is_some_and(|key| self.committed().is_corrupt(key))
        {
            return out.answers.push((asked.ticket, Err(corrupt())));
        }
        if !self.ask(asked.ticket, asked.op, false, out) {
            out.faults.push(Fault::RowLocked);
            self.queue.push(Waiting {
                ticket: asked.ticket,
                op: asked.op.clone(),
                until: self.at + LOCK_TIMEOUT,
            });
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        let commits = self.open.iter().map(|it| it.commits_at);
        commits.chain(self.queue.iter().map(|it| it.until)).min()
    }

    fn wake(&mut self, out: &mut Outbox) {
        let at = self.at;
        if let Some(place) = self.open.iter().position(|it| it.commits_at <= at) {
            let done = self.open.remove(place);
            self.commit(done, out);
            return self.go_on(out);
        }
        if let Some(place) = self.queue.iter().position(|it| it.until <= at) {
            let gave_up = self.queue.remove(place);
            let error = refusal(ErrorKind::Busy, "lock_timeout");
            out.answers.push((gave_up.ticket, Err(error)));
        }
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        let (ledger, now) = (self.committed(), self.node.now());
        ledger.holder(now, key, |process| self.is_alive(process))
    }

    fn line(&self, key: &Key) -> Vec<Subscription> {
        self.node.waiters.line(key)
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        self.committed().dead_at(self.node.now(), process).is_some()
    }

    fn crashed(&mut self, process: &ProcessHash) {
        // Unless its machine has vanished with it.
        if self.rng.chance(700) {
            self.node.ledger.sessions.end(process);
        }
    }

    fn troubles(&self) -> &'static [Fault] {
        &[
            Fault::CommitsStalled,
            Fault::CommitsStalled,
            Fault::StoreCrashed,
            Fault::SessionEnded,
            Fault::ClockSteppedBack,
            Fault::ClockSteppedForward,
            Fault::Planted,
        ]
    }

    fn breaches(&self) -> &'static [Fault] {
        &[Fault::LossyPromotion, Fault::ClockLeapt]
    }

    fn strike(&mut self, fault: Fault, rng: &mut Rng, out: &mut Outbox) -> bool {
        match fault {
            Fault::CommitsStalled => {
                let longest = [100, 800][rng.below(2)];
                let stall = rng.between(Duration::ZERO, Duration::from_millis(longest));
                self.commits_stall_until = self.at + stall;
                true
            }
            Fault::StoreCrashed | Fault::LossyPromotion => {
                self.open.clear();
                self.queue.clear();
                self.node.goes_down(rng);
                self.node.waiters.rebuilt(out);
                let survived = fault == Fault::StoreCrashed || self.node.forget_last(rng);
                self.node.ledger.sessions.end_all();
                survived
            }
            Fault::SessionEnded => {
                let now = self.node.now();
                let Ledger {
                    sessions,
                    processes,
                    ..
                } = &mut self.node.ledger;
                let lives =
                    |name: &ProcessHash| processes.get(name).is_some_and(|it| it.expires > now);
                sessions.end_one(rng, lives)
            }
            Fault::ClockSteppedBack => self.node.clock.step_back(rng),
            Fault::ClockSteppedForward => self.node.clock.step_forward(rng),
            Fault::ClockLeapt => {
                self.node.clock.leap(rng);
                true
            }
            Fault::Planted => {
                let keys = self.keys.clone();
                let all_at_rest = self.open.is_empty() && self.queue.is_empty();
                all_at_rest && self.node.plant(&keys, rng)
            }
            _ => false,
        }
    }

    fn planted(&self) -> Vec<Key> {
        self.node.ledger.planted.iter().cloned().collect()
    }

    fn heal(&mut self, out: &mut Outbox) {
        self.slow_commits = 0;
        self.commits_stall_until = self.at;
        // What held the commits up does so no more.
        for transaction in &mut self.open {
            transaction.commits_at = transaction.commits_at.min(self.at);
        }
        self.node.heal(out);
    }
}
