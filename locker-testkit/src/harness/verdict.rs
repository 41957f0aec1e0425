//! Judges what the workers wrote down.
//!
//! * **V1** validity intervals of one key that overlap: from the acknowledged grant to the earliest
//!   of the release being sent, the guard's own deadline, and the death of its process.
//! * **V2** tokens out of order: grants whose token is not larger than an earlier one's, and accepted
//!   steps whose token is smaller than an earlier one's.
//! * **V3** steps that overlapped, whatever their tokens.
//! * **Late stops**: jobs that were cancelled after their guard's hard deadline.

use super::event::{Event, Record};
use super::scene::{Exceeded, Window};
use super::times::{Times, as_micros};
use super::witness::{Act, Entry, judge};
use super::worker::name;
use crate::exclusion::{self, Flaw, Grant};
use locker_core::{Key, Token};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// What the events of a case amount to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// How many grants there were.
    pub grants: u64,
    /// Losses by reason.
    pub losses: BTreeMap<String, u64>,
    /// Errors by kind.
    pub errors: BTreeMap<String, u64>,
    /// V1.
    pub overlaps: Vec<Overlap>,
    /// V2.
    pub disorder: Vec<String>,
    /// Steps of guards that called themselves valid, refused by token. They are disorder where V1
    /// must be zero; where the fault takes the ground away they are what the token is for.
    pub fenced: Vec<String>,
    /// V3 that no pause explains.
    pub clashes: Vec<String>,
    /// V3 of processes that were paused between a check and the end of its step.
    pub paused_clashes: u64,
    /// Guards that were valid again after they had been invalid (S5).
    pub revived: Vec<String>,
    /// Jobs that were cancelled too late.
    pub late_stops: Vec<Exceeded>,
    /// Late writes that the witness refused, and those it let pass.
    pub late_writes: (u64, u64),
    /// The largest scheduling gap that no fault explains, in microseconds.
    pub gap: u64,
}

/// When one grant was valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// Which lock.
    pub key: usize,
    /// Which grant.
    pub token: u64,
    /// In which process.
    pub pid: u32,
    /// In which place.
    pub worker: usize,
    /// When the grant was acknowledged.
    pub from: u64,
    /// When it ended.
    pub to: u64,
}

/// Two grants of one key that were valid at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// The one that was valid first.
    pub first: Interval,
    /// The other one.
    pub second: Interval,
    /// For how long, in microseconds.
    pub micros: u64,
}

/// Everything there is to judge.
#[derive(Debug)]
pub struct Evidence<'e> {
    /// What the workers said, in the order of time.
    pub records: &'e [Record],
    /// What their steps left behind, for each key.
    pub witnesses: &'e [Vec<Entry>],
    /// Which process was killed when.
    pub killed: &'e HashMap<u32, u64>,
    /// What was done.
    pub windows: &'e [Window],
    /// The scaled times.
    pub times: Times,
}

impl Evidence<'_> {
    /// Judges it.
    pub fn judge(&self) -> Verdict {
        let mut verdict = Verdict::default();
        exclusion(&self.intervals(), &mut verdict);
        let mut deadlines: HashMap<(u32, usize, u64), u64> = HashMap::new();
        for record in self.records {
            match &record.event {
                Event::Grant {
                    key, token, until, ..
                } => {
                    verdict.grants += 1;
                    deadlines.insert((record.pid, *key, *token), *until);
                }
                Event::Valid { key, token, until } => {
                    deadlines.insert((record.pid, *key, *token), *until);
                }
                Event::Loss {
                    key, token, reason, ..
                } => {
                    *verdict.losses.entry(reason.clone()).or_default() += 1;
                    let deadline = deadlines.get(&(record.pid, *key, *token));
                    if let Some(deadline) = deadline
                        && record.at > *deadline
                        && !self.was_paused(record.worker, *deadline, record.at)
                    {
                        let late = record.at - deadline;
                        let worker = record.worker;
                        let text =
                            format!("late stop: worker {worker}, key {key}: {late} µs too late");
                        // It is told one stop budget before the deadline. Whatever the machine
                        // takes from this process from then on makes the stop late.
                        let budget = as_micros(self.times.timing().stop_budget);
                        verdict.late_stops.push(Exceeded {
                            text,
                            from: deadline.saturating_sub(budget),
                            to: record.at,
                            by: late,
                            pid: Some(record.pid),
                        });
                    }
                }
                Event::Revived { key, token, .. } => {
                    let worker = record.worker;
                    let text = format!("worker {worker}, key {key}: {token}");
                    verdict.revived.push(text);
                }
                Event::Refused { kind, .. } => {
                    *verdict.errors.entry(kind.clone()).or_default() += 1;
                }
                Event::Late { accepted, .. } => match accepted {
                    true => verdict.late_writes.1 += 1,
                    false => verdict.late_writes.0 += 1,
                },
                Event::Gap { from } if !self.was_paused(record.worker, *from, record.at) => {
                    verdict.gap = verdict.gap.max(record.at - from);
                }
                _ => {}
            }
        }
        for (key, entries) in self.witnesses.iter().enumerate() {
            self.judge_steps(key, entries, &mut verdict);
        }
        verdict
    }

    /// The validity of every grant.
    pub fn intervals(&self) -> Vec<Interval> {
        let mut open: BTreeMap<(usize, u64, u32), Interval> = BTreeMap::new();
        for record in self.records {
            let (Event::Grant { key, token, .. }
            | Event::Valid { key, token, .. }
            | Event::Loss { key, token, .. }
            | Event::ReleaseSent { key, token }) = &record.event
            else {
                continue;
            };
            let id = (*key, *token, record.pid);
            match (&record.event, open.get_mut(&id)) {
                (Event::Grant { until, .. }, _) => {
                    let interval = Interval {
                        key: *key,
                        token: *token,
                        pid: record.pid,
                        worker: record.worker,
                        from: record.at,
                        to: *until,
                    };
                    open.insert(id, interval);
                }
                // A loss can only shorten what was published before.
                (Event::Loss { until, .. }, Some(interval)) => {
                    interval.to = interval.to.min(*until);
                }
                (Event::Valid { until, .. }, Some(interval)) => interval.to = *until,
                (_, Some(interval)) => interval.to = interval.to.min(record.at),
                (_, None) => {}
            }
        }
        let killed = |interval: Interval| {
            let death = self.killed.get(&interval.pid).copied();
            let to = interval.to.min(death.unwrap_or(u64::MAX));
            Interval {
                to: to.max(interval.from),
                ..interval
            }
        };
        open.into_values().map(killed).collect()
    }

    /// How much of the time between two moments the machine took from one process, in gaps that no
    /// fault explains; of this process, or of the one that lost most.
    pub fn time_lost(&self, from: u64, to: u64, whom: Option<u32>) -> u64 {
        let mut lost: HashMap<usize, u64> = HashMap::new();
        let counts = |record: &&Record| whom.is_none_or(|pid| record.pid == pid);
        for record in self.records.iter().filter(counts) {
            if let Event::Gap { from: began } = record.event
                && !self.was_paused(record.worker, began, record.at)
            {
                let within = record.at.min(to).saturating_sub(began.max(from));
                *lost.entry(record.worker).or_default() += within;
            }
        }
        lost.into_values().max().unwrap_or(0)
    }

    fn was_paused(&self, worker: usize, from: u64, to: u64) -> bool {
        // A process that was continued needs a moment to get going.
        let grace = as_micros(self.times.stalled());
        let paused = |window: &&Window| window.paused && window.worker == Some(worker);
        self.windows
            .iter()
            .filter(paused)
            .any(|window| from < window.to + grace && window.from < to)
    }

    fn judge_steps(&self, key: usize, entries: &[Entry], verdict: &mut Verdict) {
        let fenced =
            |record: &&Record| matches!(record.event, Event::Fenced { key: of, .. } if of == key);
        for record in self.records.iter().filter(fenced) {
            let Event::Fenced { token, largest, .. } = record.event else {
                continue;
            };
            if !self.was_paused(record.worker, record.at.saturating_sub(1), record.at) {
                let worker = record.worker;
                let text = format!("key {key}, worker {worker}: {token} is below {largest}");
                verdict.fenced.push(text);
            }
        }
        let worker_of: HashMap<u32, usize> = self
            .records
            .iter()
            .map(|record| (record.pid, record.worker))
            .collect();
        let (mut largest, mut accepted_last) = (0, 0);
        let mut at_work: Vec<Entry> = Vec::new();
        for entry in entries {
            let accepted = judge(&mut largest, entry).is_ok();
            if accepted && entry.token < accepted_last {
                let text = format!("key {key}: accepted {} after {accepted_last}", entry.token);
                verdict.disorder.push(text);
            }
            match entry.act {
                Act::Begin if accepted => {
                    accepted_last = entry.token;
                    at_work.retain(|other| {
                        let died = self.killed.get(&other.pid);
                        died.is_none_or(|at| *at > entry.at) && other.pid != entry.pid
                            || other.pid == entry.pid && other.token != entry.token
                    });
                    for other in &at_work {
                        let worker = worker_of.get(&other.pid).copied().unwrap_or(usize::MAX);
                        if self.was_paused(worker, other.at, entry.at) {
                            verdict.paused_clashes += 1;
                        } else {
                            let (one, two) = (other.token, entry.token);
                            verdict.clashes.push(format!("key {key}: {one} and {two}"));
                        }
                    }
                    at_work.push(*entry);
                }
                Act::End => {
                    at_work.retain(|other| (other.pid, other.token) != (entry.pid, entry.token));
                }
                Act::Begin | Act::Late => {}
            }
        }
    }
}

/// What the exclusion checker finds in these intervals.
fn exclusion(intervals: &[Interval], verdict: &mut Verdict) {
    // A grant is told from others by its place in the list.
    let grants: Vec<Grant> = intervals
        .iter()
        .enumerate()
        .filter_map(|(place, interval)| {
            Some(Grant {
                key: Key::new(name(interval.key)).ok()?,
                held: interval.from..interval.to,
                token: Token::new(interval.token),
                process: place.to_string(),
            })
        })
        .collect();
    let interval = |grant: &Grant| {
        let place: usize = grant.process.parse().ok()?;
        intervals.get(place).copied()
    };
    for flaw in exclusion::check(&grants) {
        match flaw {
            Flaw::Overlap { first, second } => {
                if let (Some(first), Some(second)) = (interval(&first), interval(&second)) {
                    let micros = first.to.min(second.to) - second.from;
                    verdict.overlaps.push(Overlap {
                        first,
                        second,
                        micros,
                    });
                }
            }
            Flaw::TokenOrder { earlier, later } => {
                let (key, before, after) = (&later.key, earlier.token, later.token);
                let text = format!("{key}: granted {after} after {before}");
                verdict.disorder.push(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(at: u64, pid: u32, event: Event) -> Record {
        Record {
            at,
            worker: usize::try_from(pid).unwrap(),
            pid,
            event,
        }
    }

    fn grant(at: u64, pid: u32, token: u64, until: u64) -> Record {
        let event = Event::Grant {
            key: 0,
            token,
            owner: String::new(),
            until,
            kept: false,
            attempts: 0,
        };
        said(at, pid, event)
    }

    fn step(at: u64, pid: u32, token: u64, act: Act) -> Entry {
        Entry {
            token,
            at,
            pid,
            act,
        }
    }

    fn judged(records: &[Record], steps: Vec<Entry>, killed: &[(u32, u64)]) -> Verdict {
        let killed = killed.iter().copied().collect();
        let evidence = Evidence {
            records,
            witnesses: &[steps],
            killed: &killed,
            windows: &[],
            times: Times::SCALED,
        };
        evidence.judge()
    }

    #[test]
    fn an_owner_that_is_neither_released_nor_killed_is_valid_until_its_deadline() {
        let records = [grant(10, 1, 5, 1000), grant(500, 2, 6, 1500)];
        assert_eq!(judged(&records, vec![], &[]).overlaps.len(), 1);
        assert!(judged(&records, vec![], &[(1, 400)]).overlaps.is_empty());
        let release = said(450, 1, Event::ReleaseSent { key: 0, token: 5 });
        let records = [records[0].clone(), release, records[1].clone()];
        assert!(judged(&records, vec![], &[]).overlaps.is_empty());
    }

    #[test]
    fn a_token_that_does_not_grow_is_disorder() {
        let records = [grant(10, 1, 5, 20), grant(30, 2, 5, 40)];
        assert_eq!(judged(&records, vec![], &[]).disorder.len(), 1);
    }

    #[test]
    fn steps_that_cross_clash_unless_one_of_them_died_in_it() {
        let steps = vec![
            step(1, 1, 5, Act::Begin),
            step(2, 2, 6, Act::Begin),
            step(3, 2, 6, Act::End),
        ];
        assert_eq!(judged(&[], steps.clone(), &[]).clashes.len(), 1);
        assert!(judged(&[], steps, &[(1, 1)]).clashes.is_empty());
    }

    #[test]
    fn a_job_that_is_cancelled_after_its_deadline_stopped_too_late() {
        let loss = |at| {
            let event = Event::Loss {
                key: 0,
                token: 5,
                reason: "Expired".to_owned(),
                until: at,
            };
            said(at, 1, event)
        };
        let second = 1_000_000;
        let late = |at| {
            let records = [grant(10, 1, 5, second), loss(at)];
            judged(&records, vec![], &[]).late_stops
        };
        assert!(late(second - 1).is_empty());
        let [stop] = <[_; 1]>::try_from(late(second + 7)).unwrap();
        let told = second - as_micros(Times::SCALED.timing().stop_budget);
        assert_eq!((stop.from, stop.to, stop.by), (told, second + 7, 7));
        assert_eq!(stop.pid, Some(1), "what others have waited is no excuse");
    }
}
