//! The content of a memory store and the atomic steps on it. The time is an argument.

use super::watchers::Watchers;
use crate::backend::{
    BackendError, Birth, Claimed, Cursor, Held, Listing, Liveness, Observed, Page, Released,
    Renewal, Standing,
};
use crate::identity::{Key, OwnerHash, ProcessHash, Token};
use crate::record::{LockData, ProcessData};
use crate::time::{Instant, Timestamp};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

/// The moment of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct State {
    locks: BTreeMap<Key, Lock>,
    processes: BTreeMap<ProcessHash, Process>,
    pub(super) watchers: Watchers,
}

/// A key that was granted at least once. The token outlives the record.
#[derive(Debug)]
struct Lock {
    last_token: Token,
    record: Option<Record>,
}

#[derive(Debug)]
struct Record {
    data: LockData,
    expires: Instant,
    marked: bool,
}

#[derive(Debug)]
struct Process {
    data: ProcessData,
    /// Never moved once it has passed: death is one-way.
    expires: Instant,
}

impl State {
    /// The unexpired record of a key.
    fn record(&self, now: Now, key: &Key) -> Option<&Record> {
        let record = self.locks.get(key)?.record.as_ref()?;
        (record.expires > now.instant).then_some(record)
    }

    fn record_mut(&mut self, now: Now, key: &Key) -> Option<&mut Record> {
        let record = self.locks.get_mut(key)?.record.as_mut()?;
        (record.expires > now.instant).then_some(record)
    }

    fn alive(&self, now: Now, process: &ProcessHash) -> Option<&Process> {
        self.processes
            .get(process)
            .filter(|process| process.expires > now.instant)
    }

    pub(super) fn create(&mut self, now: Now, owner: &OwnerHash, ttl: Duration) -> Claimed {
        if self.alive(now, owner.process()).is_none() {
            return Claimed::OwnerDead;
        }
        match self.record_mut(now, owner.key()) {
            Some(mine) if mine.data.owner == *owner => Claimed::Granted(mine.renew(now, ttl)),
            Some(_) => self
                .held(now, owner.key())
                .map_or(Claimed::Absent, Claimed::Held),
            None => Claimed::Granted(self.grant(now, owner, ttl)),
        }
    }

    pub(super) fn take_over(
        &mut self,
        now: Now,
        owner: &OwnerHash,
        observed: &Observed,
        ttl: Duration,
    ) -> Claimed {
        if self.alive(now, owner.process()).is_none() {
            return Claimed::OwnerDead;
        }
        if let Some(mine) = self.record_mut(now, owner.key())
            && mine.data.owner == *owner
        {
            return Claimed::Granted(mine.renew(now, ttl));
        }
        let Some(held) = self.held(now, owner.key()) else {
            return Claimed::Absent;
        };
        if held.observed != *observed || held.holder != Some(Liveness::Dead) {
            return Claimed::Held(held);
        }
        Claimed::Granted(self.grant(now, owner, ttl))
    }

    fn grant(&mut self, now: Now, owner: &OwnerHash, ttl: Duration) -> Token {
        let last = self.locks.get(owner.key()).map(|lock| lock.last_token);
        let token = Token::next(last, now.wall);
        let data = LockData::new(owner.clone(), token, now.wall);
        let record = Record {
            data,
            expires: now.instant + ttl,
            marked: false,
        };
        self.locks.insert(
            owner.key().clone(),
            Lock {
                last_token: token,
                record: Some(record),
            },
        );
        token
    }

    pub(super) fn extend(&mut self, now: Now, owner: &OwnerHash, ttl: Duration) -> Standing {
        let standing = self.standing(now, owner);
        if standing == Standing::Mine
            && let Some(record) = self.record_mut(now, owner.key())
        {
            record.renew(now, ttl);
        }
        standing
    }

    pub(super) fn standing(&self, now: Now, owner: &OwnerHash) -> Standing {
        match self.record(now, owner.key()) {
            None => Standing::Absent,
            Some(record) if record.data.owner != *owner => {
                Standing::Held(record.data.owner.clone())
            }
            Some(record) if record.marked => Standing::Marked,
            Some(_) => Standing::Mine,
        }
    }

    pub(super) fn release(&mut self, now: Now, owner: &OwnerHash) -> Released {
        match self.standing(now, owner) {
            Standing::Held(other) => Released::Held(other),
            Standing::Absent => Released::Absent,
            Standing::Mine | Standing::Marked => {
                if let Some(lock) = self.locks.get_mut(owner.key()) {
                    lock.record = None;
                }
                self.wake(now, owner.key());
                Released::Done
            }
        }
    }

    pub(super) fn mark(&mut self, now: Now, owner: &OwnerHash) -> Released {
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

    fn wake(&mut self, now: Now, key: &Key) {
        let processes = &self.processes;
        self.watchers.wake(key, |process| {
            processes
                .get(process)
                .is_some_and(|process| process.expires > now.instant)
        });
    }

    pub(super) fn held(&self, now: Now, key: &Key) -> Option<Held> {
        let record = self.record(now, key)?;
        let process = self.alive(now, record.data.process());
        let process_left = process.map_or(Duration::ZERO, |p| p.expires.since(now.instant));
        Some(Held {
            data: record.data.clone(),
            observed: Observed::new(record.data.owner.as_str()),
            holder: Some(process.map_or(Liveness::Dead, |p| Liveness::Alive(p.data.clone()))),
            free_in: record.expires.since(now.instant).min(process_left),
            marked: record.marked,
        })
    }

    pub(super) fn liveness(&self, now: Now, process: &ProcessHash) -> Liveness {
        self.alive(now, process)
            .map_or(Liveness::Dead, |p| Liveness::Alive(p.data.clone()))
    }

    pub(super) fn create_process(
        &mut self,
        now: Now,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Birth {
        if self.processes.contains_key(process) {
            return Birth::Exists;
        }
        let data = ProcessData {
            process: process.clone(),
            alive_at: now.wall,
        };
        self.processes.insert(
            process.clone(),
            Process {
                data,
                expires: now.instant + ttl,
            },
        );
        Birth::Created { valid_for: ttl }
    }

    pub(super) fn renew_process(
        &mut self,
        now: Now,
        process: &ProcessHash,
        ttl: Duration,
    ) -> Renewal {
        match self.processes.get_mut(process) {
            Some(process) if process.expires > now.instant => {
                process.expires = process.expires.max(now.instant + ttl);
                process.data.alive_at = now.wall;
                Renewal::Renewed { valid_for: ttl }
            }
            _ => Renewal::Gone,
        }
    }

    pub(super) fn retire_process(&mut self, now: Now, process: &ProcessHash) {
        let Some(record) = self.processes.get_mut(process) else {
            return;
        };
        record.expires = record.expires.min(now.instant);
        let of_process = |lock: &Lock| {
            lock.record.as_ref().is_some_and(|record| {
                record.expires > now.instant && record.data.process() == process
            })
        };
        let freed: Vec<Key> = self
            .locks
            .iter()
            .filter(|(_, lock)| of_process(lock))
            .map(|(key, _)| key.clone())
            .collect();
        for key in freed {
            self.wake(now, &key);
        }
    }

    pub(super) fn list_locks(
        &self,
        now: Now,
        prefix: &str,
        page: &Page,
    ) -> Listing<Result<Held, BackendError>> {
        let after = page.after.as_ref().map(Cursor::as_str);
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let keys = self
            .locks
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, _)| key);
        one_page(
            page,
            keys.filter_map(|key| Some((key.as_str(), Ok(self.held(now, key)?)))),
        )
    }

    pub(super) fn list_processes(
        &self,
        now: Now,
        page: &Page,
    ) -> Listing<Result<ProcessData, BackendError>> {
        let after = page.after.as_ref().map(Cursor::as_str);
        let living = self
            .processes
            .iter()
            .filter(|(hash, process)| {
                process.expires > now.instant && after.is_none_or(|after| hash.as_str() > after)
            })
            .map(|(hash, process)| (hash.as_str(), Ok(process.data.clone())));
        one_page(page, living)
    }

    pub(super) fn sweep(&mut self, now: Now, retention: Duration) -> u64 {
        let before = self.locks.len() + self.processes.len();
        self.locks.retain(|_, lock| {
            let held = lock
                .record
                .as_ref()
                .is_some_and(|record| record.expires > now.instant);
            // A token may be forgotten only when the clock has passed it (S2): in the very
            // microsecond of the token, the next one would repeat it.
            held || Timestamp::from_micros(lock.last_token.get()) + retention >= now.wall
        });
        self.processes
            .retain(|_, process| process.expires + retention >= now.instant);
        (before - self.locks.len() - self.processes.len()) as u64
    }
}

impl Record {
    /// Gives the record the full TTL again, never less than it has.
    fn renew(&mut self, now: Now, ttl: Duration) -> Token {
        self.expires = self.expires.max(now.instant + ttl);
        self.data.extended_at = now.wall;
        self.data.token
    }
}

fn one_page<'a, T>(page: &Page, mut items: impl Iterator<Item = (&'a str, T)>) -> Listing<T> {
    let mut listing = Listing {
        items: Vec::new(),
        next: None,
    };
    let mut last = None;
    for (place, item) in items.by_ref().take(page.limit.max(1) as usize) {
        listing.items.push(item);
        last = Some(Cursor::new(place));
    }
    if items.next().is_some() {
        listing.next = last;
    }
    listing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Host;

    /// S2: the token of a lock that was granted and released in this microsecond is remembered.
    #[test]
    fn a_sweep_in_the_microsecond_of_a_token_keeps_it() {
        let now = Now {
            instant: Instant::from_nanos(1_000_000_000),
            wall: Timestamp::from_micros(7_000_000),
        };
        let process = ProcessHash::new(&Host::new("web-1").unwrap(), 1, 1);
        let ttl = Duration::from_secs(10);
        let mut state = State::default();
        state.create_process(now, &process, ttl);
        let grant = |state: &mut State, seq| {
            let owner = OwnerHash::new(&Key::new("k").unwrap(), &process, seq, None);
            let claimed = state.create(now, &owner, ttl);
            state.release(now, &owner);
            match claimed {
                Claimed::Granted(token) => token,
                other => panic!("the lock is free, but: {other:?}"),
            }
        };
        let first = grant(&mut state, 1);
        assert_eq!(state.sweep(now, Duration::ZERO), 0);
        assert!(grant(&mut state, 2) > first);
    }
}
