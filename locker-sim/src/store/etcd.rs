//! etcd: no clock that anybody could ask, revisions, and one lease for each process.
//!
//! Locks and processes hang on the process's own lease and go with it, in one step. A claim compares
//! the revision of its own process's record, as it was known *when the claim was sent*; to settle is
//! to write that record again. A renewal is a keep-alive and then a read, and the read acknowledges
//! it. A new leader gives every lease its whole time again, so death may come later than anybody
//! reckons. Against the assumptions a lease is revoked early, or the cluster wiped.

use super::redis::turned_away;
use super::server_clock::ServerClock;
use super::waiters::Waiters;
use super::{Asked, Holder, StoreModel, refusal, timeless};
use crate::fault::Fault;
use crate::mark::Mark;
use crate::op::{Op, Outbox, Subscription, Ticket, Value};
use crate::plan::Plan;
use crate::rng::Rng;
use locker_core::backend::{
    Birth, Claim, Claimed, Held, Liveness, Observed, Released, Renewal, Settlement, Standing,
};
use locker_core::record::{LockData, ProcessData};
use locker_core::{ErrorKind, Key, OwnerHash, ProcessHash, Timestamp, Token};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// etcd.
#[derive(Debug)]
pub struct Etcd {
    clock: ServerClock,
    at: Duration,
    rng: Rng,
    /// Whether the network between two steps is as bad as any other.
    slow_steps: bool,
    revision: u64,
    base: u64,
    locks: BTreeMap<Key, Lock>,
    processes: BTreeMap<ProcessHash, Lease>,
    born: BTreeSet<ProcessHash>,
    /// When the settlement of an owner was sent. Its locker sends no claim of it after that.
    settled: HashMap<OwnerHash, Duration>,
    waiters: Waiters,
    leaderless_until: Duration,
    /// Whether a member refuses meanwhile, or lets requests wait.
    refuses: bool,
    reads: Vec<Read>,
}

#[derive(Debug, Clone)]
struct Lock {
    owner: OwnerHash,
    token: Token,
    revision: u64,
    granted_at: u64,
    marked: bool,
}

#[derive(Debug, Clone)]
struct Lease {
    /// When the record of the process was written, and under which revision.
    generations: Vec<(Duration, u64)>,
    expires: u64,
    ttl: Duration,
    alive_at: u64,
}

impl Lease {
    fn generation(&self) -> u64 {
        self.generations.last().map_or(0, |(_, revision)| *revision)
    }

    fn generation_at(&self, sent: Duration) -> u64 {
        let known = self.generations.iter().rev().find(|(at, _)| *at <= sent);
        known.map_or(0, |(_, revision)| *revision)
    }
}

/// The read that acknowledges a renewal.
#[derive(Debug)]
struct Read {
    due: Duration,
    ticket: Ticket,
    process: ProcessHash,
    kept: bool,
}

impl Etcd {
    /// An empty cluster.
    pub fn new(plan: &Plan) -> Self {
        Self {
            clock: ServerClock::new(plan.store_rate, plan),
            at: Duration::ZERO,
            rng: Rng::new(plan.seed),
            slow_steps: plan.weather.slow > 0,
            revision: 1,
            base: 0,
            locks: BTreeMap::new(),
            processes: BTreeMap::new(),
            born: BTreeSet::new(),
            settled: HashMap::new(),
            waiters: Waiters::default(),
            leaderless_until: Duration::ZERO,
            refuses: false,
            reads: Vec::new(),
        }
    }

    fn has_no_leader(&self) -> bool {
        self.at < self.leaderless_until
    }

    fn claim(&mut self, claim: &Claim, observed: Option<&Observed>, sent: Duration) -> Claimed {
        let owner = &claim.owner;
        let Some(own) = self.processes.get(owner.process()) else {
            return Claimed::OwnerDead;
        };
        if self.settled.get(owner).is_some_and(|at| *at < sent) {
            return Claimed::TooLate;
        }
        let holds = own.generation() == own.generation_at(sent);
        let Some(lock) = self.locks.get(claim.key()) else {
            return match observed {
                Some(_) => Claimed::Absent,
                None if holds => Claimed::Granted(self.grant(owner)),
                None => Claimed::TooLate,
            };
        };
        if lock.owner == *owner {
            return Claimed::Granted(lock.token);
        }
        let Some(observed) = observed else {
            return Claimed::Held(self.held(lock, Liveness::Unknown));
        };
        let same = version(lock) == *observed;
        let names_holder = names(observed) == Some(lock.owner.as_str());
        let holder = self.processes.get(lock.owner.process());
        let judged = match holder {
            _ if !names_holder => Liveness::Unknown,
            None if same && holds => return Claimed::Granted(self.grant(owner)),
            None if same => return Claimed::TooLate,
            None => Liveness::Dead,
            Some(lease) => alive(lock.owner.process(), lease),
        };
        Claimed::Held(self.held(lock, judged))
    }

    fn grant(&mut self, owner: &OwnerHash) -> Token {
        self.revision += 1;
        let token = Token::new(self.base + self.revision);
        let lock = Lock {
            owner: owner.clone(),
            token,
            revision: self.revision,
            granted_at: self.clock.now(),
            marked: false,
        };
        self.locks.insert(owner.key().clone(), lock);
        token
    }

    fn held(&self, lock: &Lock, holder: Liveness) -> Held {
        let lease = self.processes.get(lock.owner.process());
        let at = Timestamp::from_micros(lock.granted_at);
        Held {
            data: LockData::new(lock.owner.clone(), lock.token, at),
            observed: version(lock),
            free_in: match holder {
                Liveness::Dead => Duration::ZERO,
                // The whole time that the lease was granted for: nobody knows what is left of it.
                _ => lease.map_or(Duration::from_secs(1), |lease| lease.ttl),
            },
            holder: Some(holder),
            marked: lock.marked,
        }
    }

    fn standing(&self, owner: &OwnerHash) -> Standing {
        match self.locks.get(owner.key()) {
            None => Standing::Absent,
            Some(lock) if lock.owner != *owner => Standing::Held(lock.owner.clone()),
            Some(lock) if lock.marked => Standing::Marked,
            Some(_) => Standing::Mine,
        }
    }

    fn release(&mut self, owner: &OwnerHash, out: &mut Outbox) -> Released {
        match self.standing(owner) {
            Standing::Absent => Released::Absent,
            Standing::Held(other) => Released::Held(other),
            Standing::Mine | Standing::Marked => {
                self.revision += 1;
                self.locks.remove(owner.key());
                self.wake_waiters(owner.key(), out);
                Released::Done
            }
        }
    }

    fn wake_waiters(&mut self, key: &Key, out: &mut Outbox) {
        let processes = &self.processes;
        self.waiters
            .wake(key, |process| processes.contains_key(process), out);
    }

    /// A lease goes, and with it all that hangs on it.
    fn revoke(&mut self, process: &ProcessHash, out: &mut Outbox) {
        if self.processes.remove(process).is_none() {
            return;
        }
        self.revision += 1;
        let locks = self.locks.iter();
        let of_process = locks.filter(|(_, lock)| lock.owner.process() == process);
        let keys: Vec<Key> = of_process.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.locks.remove(&key);
            self.wake_waiters(&key, out);
        }
    }

    fn birth(&mut self, process: &ProcessHash, ttl: Duration) -> Birth {
        if !self.born.insert(process.clone()) {
            return Birth::Exists;
        }
        let now = self.clock.now();
        // Every birth raises the base, and nothing lowers it.
        self.base = self.base.max(now);
        self.revision += 1;
        let lease = Lease {
            generations: vec![(self.at, self.revision)],
            expires: now + micros(ttl),
            ttl,
            alive_at: now,
        };
        self.processes.insert(process.clone(), lease);
        Birth::Created { valid_for: ttl }
    }

    fn settle(&mut self, owner: &OwnerHash, sent: Duration, out: &mut Outbox) -> Settlement {
        self.settled.entry(owner.clone()).or_insert(sent);
        let released = self.release(owner, out);
        if let Some(own) = self.processes.get_mut(owner.process()) {
            self.revision += 1;
            own.generations.push((self.at, self.revision));
        }
        Settlement::Final(released)
    }

    fn keep_alive(&mut self, ticket: Ticket, process: &ProcessHash, ttl: Duration) {
        let now = self.clock.now();
        let lease = self.processes.get_mut(process);
        let kept = lease.is_some_and(|lease| {
            lease.expires = lease.expires.max(now + micros(ttl));
            lease.alive_at = now;
            true
        });
        let longest = if self.slow_steps && self.rng.chance(60) {
            280
        } else {
            3
        };
        let due = self.at
            + self
                .rng
                .between(Duration::from_micros(100), Duration::from_millis(longest));
        self.reads.push(Read {
            due,
            ticket,
            process: process.clone(),
            kept,
        });
    }

    fn next_expiry(&self) -> Option<Duration> {
        let next = self.processes.values().map(|lease| lease.expires).min()?;
        Some(self.clock.when(next).max(self.leaderless_until))
    }
}

fn micros(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX)
}

fn version(lock: &Lock) -> Observed {
    Observed::new(format!("{} {}", lock.revision, lock.owner.as_str()))
}

/// Whose record a version is of.
fn names(observed: &Observed) -> Option<&str> {
    let (_, owner) = observed.as_str().split_once(' ')?;
    Some(owner)
}

fn alive(process: &ProcessHash, lease: &Lease) -> Liveness {
    Liveness::Alive(ProcessData {
        process: process.clone(),
        alive_at: Timestamp::from_micros(lease.alive_at),
    })
}

impl StoreModel for Etcd {
    fn advance(&mut self, at: Duration) {
        self.at = at;
        self.clock.advance(at);
    }

    fn receive(&mut self, asked: Asked<'_>, out: &mut Outbox) {
        if self.has_no_leader() {
            return turned_away(asked, self.refuses, out);
        }
        let value = match asked.op {
            Op::TryCreate(claim) => Value::Claimed(self.claim(claim, None, asked.sent)),
            Op::TakeOver(claim, observed) => {
                Value::Claimed(self.claim(claim, Some(observed), asked.sent))
            }
            Op::Extend(owners, _) | Op::Check(owners) => {
                let standings = owners.iter().map(|owner| Ok(self.standing(owner)));
                Value::Standings(standings.collect())
            }
            Op::Release(owner) => Value::Released(self.release(owner, out)),
            Op::Settle(owner, _) => Value::Settled(self.settle(owner, asked.sent, out)),
            Op::Mark(owner) => {
                let marked = match self.standing(owner) {
                    Standing::Absent => Released::Absent,
                    Standing::Held(other) => Released::Held(other),
                    Standing::Mine | Standing::Marked => Released::Done,
                };
                if marked == Released::Done
                    && let Some(lock) = self.locks.get_mut(owner.key())
                {
                    lock.marked = true;
                }
                Value::Released(marked)
            }
            Op::ReadLock(key) => {
                let lock = self.locks.get(key);
                Value::Lock(lock.map(|lock| self.held(lock, Liveness::Unknown)))
            }
            Op::ReadProcess(process) => {
                let lease = self.processes.get(process);
                Value::Liveness(lease.map_or(Liveness::Dead, |lease| alive(process, lease)))
            }
            Op::CreateProcess(process, ttl) => Value::Born(self.birth(process, *ttl)),
            Op::RenewProcess(process, ttl) => {
                return self.keep_alive(asked.ticket, process, *ttl);
            }
            Op::RetireProcess(process) => {
                self.revoke(process, out);
                Value::Done
            }
            Op::Watch(key, process, who) => {
                self.waiters.enrol(key, process, *who);
                Value::Done
            }
            Op::Unwatch(who) => {
                self.waiters.withdraw(*who);
                Value::Done
            }
        };
        if let Value::Claimed(Claimed::TooLate) = value {
            out.marks.push(Mark::ClaimOfAnOldGeneration);
        }
        out.answers.push((asked.ticket, timeless(value)));
    }

    fn next_wake(&self) -> Option<Duration> {
        let reads = self.reads.iter().map(|read| read.due);
        reads.chain(self.next_expiry()).min()
    }

    fn wake(&mut self, out: &mut Outbox) {
        let at = self.at;
        if self.next_expiry().is_some_and(|next| next <= at) {
            let now = self.clock.now();
            let mut all = self.processes.iter();
            let over = all.find(|(_, lease)| lease.expires <= now);
            if let Some(process) = over.map(|(process, _)| process.clone()) {
                return self.revoke(&process, out);
            }
        }
        let Some(place) = self.reads.iter().position(|read| read.due <= at) else {
            return;
        };
        let read = self.reads.remove(place);
        let there = self.processes.contains_key(&read.process);
        let lease = self.processes.get(&read.process).map(|lease| lease.ttl);
        let answer = if self.has_no_leader() || (there && !read.kept) {
            out.marks.push(Mark::RenewalWithoutALeader);
            Err(refusal(ErrorKind::Unavailable, "there is no leader"))
        } else {
            timeless(Value::Renewed(match lease {
                Some(valid_for) => Renewal::Renewed { valid_for },
                None => Renewal::Gone,
            }))
        };
        out.by = Some(read.ticket);
        out.answers.push((read.ticket, answer));
    }

    fn holder(&self, key: &Key) -> Option<Holder> {
        let lock = self.locks.get(key)?;
        Some(Holder {
            owner: lock.owner.clone(),
            token: lock.token,
            until: lock.revision,
            marked: lock.marked,
            alive: self.processes.contains_key(lock.owner.process()),
        })
    }

    fn line(&self, key: &Key) -> Vec<Subscription> {
        self.waiters.line(key)
    }

    fn is_alive(&self, process: &ProcessHash) -> bool {
        self.processes.contains_key(process)
    }

    fn troubles(&self) -> &'static [Fault] {
        &[Fault::LeaderChanged]
    }

    fn breaches(&self) -> &'static [Fault] {
        &[Fault::LeaseRevoked, Fault::LeaseRevoked, Fault::AllLost]
    }

    fn strike(&mut self, fault: Fault, rng: &mut Rng, out: &mut Outbox) -> bool {
        match fault {
            Fault::LeaderChanged => {
                let longest = [150, 1200][rng.below(2)];
                let lasts = rng.between(Duration::from_millis(20), Duration::from_millis(longest));
                self.leaderless_until = self.at + lasts;
                self.refuses = rng.chance(500);
                let mut then = self.clock;
                then.advance(self.leaderless_until);
                for lease in self.processes.values_mut() {
                    lease.expires = lease.expires.max(then.now() + micros(lease.ttl));
                }
                self.waiters.rebuilt(out);
                true
            }
            Fault::LeaseRevoked => {
                let place = rng.below(self.processes.len());
                let process = self.processes.keys().nth(place).cloned();
                process.is_some_and(|process| {
                    self.revoke(&process, out);
                    true
                })
            }
            Fault::AllLost => {
                self.locks.clear();
                self.processes.clear();
                self.born.clear();
                self.revision = 1;
                self.base = 0;
                true
            }
            _ => false,
        }
    }

    fn heal(&mut self, out: &mut Outbox) {
        self.leaderless_until = self.leaderless_until.min(self.at);
        self.waiters.rebuilt(out);
        self.slow_steps = false;
    }
}
