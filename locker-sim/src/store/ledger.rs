//! The records of a store that judges by a wall clock, and the atomic steps on them.
//!
//! It is written from the scripts of Redis and the functions of Postgres, and shares no line with the
//! memory store of the core: that one is the model of the embedded store. A record is an unexpired
//! one only by the time that is given; a token outlives its record.

use super::sessions::Sessions;
use super::{Holder, refusal};
use crate::op::{Answer, Op, Value};
use locker_core::backend::{
    Birth, Claim, Claimed, Held, Liveness, Observed, Released, Renewal, Reply, Settlement, Standing,
};
use locker_core::record::{LockData, ProcessData};
use locker_core::{
    BackendError, ErrorKind, Key, OwnerHash, ProcessHash, StoreTime, Timestamp, Token,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    pub(super) locks: BTreeMap<Key, Lock>,
    pub(super) processes: BTreeMap<ProcessHash, Life>,
    /// Keys under which something was found that is no record.
    pub(super) planted: BTreeSet<Key>,
    /// Who is believed without a report; nobody but on Postgres.
    pub(super) sessions: Sessions,
}

/// A key that was granted at least once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) last: u64,
    pub(super) record: Option<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) data: LockData,
    pub(super) expires: u64,
    pub(super) marked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) alive_at: u64,
    pub(super) expires: u64,
}

/// How soon a waiter looks again whether a session has ended, in microseconds.
const LOOK_AGAIN: u64 = 200_000;

pub(super) fn micros(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

impl Ledger {
    pub(super) fn record(&self, now: u64, key: &Key) -> Option<&Record> {
        let record = self.locks.get(key)?.record.as_ref()?;
        (record.expires > now).then_some(record)
    }

    fn record_mut(&mut self, now: u64, key: &Key) -> Option<&mut Record> {
        let record = self.locks.get_mut(key)?.record.as_mut()?;
        (record.expires > now).then_some(record)
    }

    pub(super) fn life(&self, now: u64, process: &ProcessHash) -> Option<Life> {
        let life = self.processes.get(process).copied();
        life.filter(|life| life.expires > now)
    }

    /// When this process is dead for others, if it is not yet.
    pub(super) fn dead_at(&self, now: u64, process: &ProcessHash) -> Option<u64> {
        let reported = self.life(now, process).map(|life| life.expires);
        reported.or_else(|| self.sessions.believed(now, process))
    }

    /// The holder of a key; `lives` judges processes.
    pub(super) fn holder(
        &self,
        now: u64,
        key: &Key,
        lives: impl Fn(&ProcessHash) -> bool,
    ) -> Option<Holder> {
        let record = self.record(now, key)?;
        Some(Holder {
            owner: record.data.owner.clone(),
            token: record.data.token,
            until: record.expires,
            marked: record.marked,
            alive: lives(record.data.process()),
        })
    }

    /// A claim. With `observed` it is a take-over; `here` says whether processes can be seen: if
    /// not, the caller has judged the observed one.
    pub(super) fn claim(
        &mut self,
        now: u64,
        claim: &Claim,
        observed: Option<&Observed>,
        here: bool,
    ) -> Claimed {
        if now > claim.not_after.as_micros() {
            return Claimed::TooLate;
        }
        if here && self.life(now, claim.owner.process()).is_none() {
            return Claimed::OwnerDead;
        }
        let ttl = micros(claim.ttl);
        match self.record_mut(now, claim.key()) {
            None if observed.is_some() => Claimed::Absent,
            None => Claimed::Granted(self.grant(now, &claim.owner, ttl)),
            Some(mine) if mine.data.owner == claim.owner => {
                mine.expires = mine.expires.max(now + ttl);
                mine.data.extended_at = Timestamp::from_micros(now);
                Claimed::Granted(mine.data.token)
            }
            Some(_) => {
                let Some(held) = self.held(now, claim.key(), here) else {
                    return Claimed::Absent;
                };
                let dead = !here || held.holder == Some(Liveness::Dead);
                if observed == Some(&held.observed) && dead {
                    return Claimed::Granted(self.grant(now, &claim.owner, ttl));
                }
                Claimed::Held(held)
            }
        }
    }

    fn grant(&mut self, now: u64, owner: &OwnerHash, ttl: u64) -> Token {
        let lock = self.locks.entry(owner.key().clone()).or_default();
        lock.last = (lock.last + 1).max(now);
        let token = Token::new(lock.last);
        lock.record = Some(Record {
            data: LockData::new(owner.clone(), token, Timestamp::from_micros(now)),
            expires: now + ttl,
            marked: false,
        });
        token
    }

    pub(super) fn held(&self, now: u64, key: &Key, here: bool) -> Option<Held> {
        let record = self.record(now, key)?;
        let mut left = record.expires - now;
        let holder = here.then(|| {
            let process = record.data.process();
            let dead_at = self.dead_at(now, process);
            left = left.min(dead_at.map_or(0, |dead_at| dead_at - now));
            if self.life(now, process).is_none() {
                // A session may end at any time.
                left = left.min(LOOK_AGAIN);
            }
            self.liveness(now, process)
        });
        let token = record.data.token.get();
        Some(Held {
            data: record.data.clone(),
            observed: Observed::new(format!("{token} {}", record.data.owner.as_str())),
            holder,
            free_in: Duration::from_micros(left),
            marked: record.marked,
        })
    }

    pub(super) fn standing(&self, now: u64, owner: &OwnerHash) -> Standing {
        match self.record(now, owner.key()) {
            None => Standing::Absent,
            Some(record) if record.data.owner != *owner => {
                Standing::Held(record.data.owner.clone())
            }
            Some(record) if record.marked => Standing::Marked,
            Some(_) => Standing::Mine,
        }
    }

    pub(super) fn extend(&mut self, now: u64, owner: &OwnerHash, ttl: Duration) -> Standing {
        let standing = self.standing(now, owner);
        if standing == Standing::Mine
            && let Some(record) = self.record_mut(now, owner.key())
        {
            record.expires = record.expires.max(now + micros(ttl));
            record.data.extended_at = Timestamp::from_micros(now);
        }
        standing
    }

    pub(super) fn release(&mut self, now: u64, owner: &OwnerHash) -> Released {
        match self.standing(now, owner) {
            Standing::Held(other) => Released::Held(other),
            Standing::Absent => Released::Absent,
            Standing::Mine | Standing::Marked => {
                if let Some(lock) = self.locks.get_mut(owner.key()) {
                    lock.record = None;
                }
                Released::Done
            }
        }
    }

    pub(super) fn mark(&mut self, now: u64, owner: &OwnerHash) -> Released {
        match self.standing(now, owner) {
            Standing::Held(other) => Released::Held(other),
            Standing::Absent => Released::Absent,
            Standing::Mine | Standing::Marked => {
                if let Some(record) = self.record_mut(now, owner.key()) {
                    record.marked = true;
                }
                Released::Done
            }
        }
    }

    pub(super) fn birth(&mut self, now: u64, process: &ProcessHash, ttl: Duration) -> Birth {
        if self.processes.contains_key(process) {
            return Birth::Exists;
        }
        let life = Life {
            alive_at: now,
            expires: now + micros(ttl),
        };
        self.processes.insert(process.clone(), life);
        Birth::Created { valid_for: ttl }
    }

    pub(super) fn renew(&mut self, now: u64, process: &ProcessHash, ttl: Duration) -> Renewal {
        match self.processes.get_mut(process) {
            Some(life) if life.expires > now => {
                life.expires = life.expires.max(now + micros(ttl));
                life.alive_at = now;
                Renewal::Renewed { valid_for: ttl }
            }
            _ => Renewal::Gone,
        }
    }

    pub(super) fn retire(&mut self, now: u64, process: &ProcessHash) {
        if let Some(life) = self.processes.get_mut(process) {
            life.expires = life.expires.min(now);
        }
    }

    /// The keys that a process holds.
    pub(super) fn of_process(&self, now: u64, process: &ProcessHash) -> Vec<Key> {
        let mine = |lock: &Lock| {
            let record = lock.record.as_ref();
            record.is_some_and(|it| it.expires > now && it.data.process() == process)
        };
        let locks = self.locks.iter().filter(|(_, lock)| mine(lock));
        locks.map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn liveness(&self, now: u64, process: &ProcessHash) -> Liveness {
        let life = self.processes.get(process);
        let living = life.filter(|_| self.dead_at(now, process).is_some());
        living.map_or(Liveness::Dead, |life| alive(process, *life))
    }

    /// S11: whether this key holds what is no record.
    pub(super) fn is_corrupt(&self, key: &Key) -> bool {
        self.planted.contains(key)
    }

    /// The answers about several locks, each its own.
    pub(super) fn standings(
        &mut self,
        now: u64,
        owners: &[OwnerHash],
        extend: Option<Duration>,
    ) -> Value {
        let standing = |owner: &OwnerHash| {
            if self.is_corrupt(owner.key()) {
                return Err(corrupt());
            }
            Ok(match extend {
                Some(ttl) => self.extend(now, owner, ttl),
                None => self.standing(now, owner),
            })
        };
        Value::Standings(owners.iter().map(standing).collect())
    }

    /// A whole request as one step, where a store takes it as one: all but the hints.
    pub(super) fn apply(&mut self, now: u64, op: &Op, here: bool) -> Answer {
        if op.key().is_some_and(|key| self.is_corrupt(key)) {
            return Err(corrupt());
        }
        let value = match op {
            Op::TryCreate(claim) => Value::Claimed(self.claim(now, claim, None, here)),
            Op::TakeOver(claim, observed) => {
                Value::Claimed(self.claim(now, claim, Some(observed), here))
            }
            Op::Extend(owners, ttl) => self.standings(now, owners, Some(*ttl)),
            Op::Check(owners) => self.standings(now, owners, None),
            Op::Release(owner) => Value::Released(self.release(now, owner)),
            Op::Settle(owner, until) => {
                let released = self.release(now, owner);
                Value::Settled(if now > until.as_micros() {
                    Settlement::Final(released)
                } else {
                    Settlement::Open(released)
                })
            }
            Op::Mark(owner) => Value::Released(self.mark(now, owner)),
            Op::ReadLock(key) => Value::Lock(self.held(now, key, here)),
            Op::ReadProcess(process) => Value::Liveness(self.liveness(now, process)),
            Op::CreateProcess(process, ttl) => Value::Born(self.birth(now, process, *ttl)),
            Op::RenewProcess(process, ttl) => Value::Renewed(self.renew(now, process, *ttl)),
            Op::RetireProcess(process) => {
                self.retire(now, process);
                Value::Done
            }
            Op::Watch(..) | Op::Unwatch(_) => Value::Done,
        };
        Ok(at(now, value))
    }
}

/// An answer that bears this time.
pub(super) fn at(now: u64, value: Value) -> Reply<Value> {
    Reply::at(StoreTime::from_micros(now), value)
}

/// S11: a typed error for this key, and for no other.
pub(super) fn corrupt() -> BackendError {
    refusal(ErrorKind::Corrupt, "the record cannot be read")
}

fn alive(process: &ProcessHash, life: Life) -> Liveness {
    Liveness::Alive(ProcessData {
        process: process.clone(),
        alive_at: Timestamp::from_micros(life.alive_at),
    })
}
