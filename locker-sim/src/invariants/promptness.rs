//! L1: whoever waits for a lock that is released has it soon, where the store can tell. In good weather
//! a lock that is given back is granted within 50 ms and the turns of those who stand in the line and do
//! not come, as long as one of those who waited at that moment still does.

use super::{Fact, HandRef, Invariant, View, Violation};
use crate::op::Op;
use locker_core::ProcessHash;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a hint and a claim may take.
const SOON: Duration = Duration::from_millis(50);
/// How long a hint may take in bad weather.
const LATE: Duration = Duration::from_millis(900);
/// What each of a line has to himself.
const TURN: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(super) struct Promptness {
    /// The locks that were given back in good weather.
    free: BTreeMap<usize, Free>,
}

#[derive(Debug)]
struct Free {
    since: Duration,
    /// How many stood in the line.
    in_line: u32,
    /// Who waited. The store tells nobody whose process is dead.
    waiting: Vec<(HandRef, ProcessHash)>,
}

impl Invariant for Promptness {
    fn check(&mut self, view: &View<'_>) -> Result<(), Violation> {
        // A hint that was sent before may still come, and put off a turn. Under a name that two
        // processes have, each is told what the other has asked for (A6).
        let hints_are_late = view.plan.weather.hint_lost > 0;
        let settled = view.plan.heals_at + if hints_are_late { LATE } else { Duration::ZERO };
        if view.at < settled || view.cloned.is_some() {
            return Ok(());
        }
        for fact in view.facts {
            if let Fact::Record {
                key,
                before: Some(_),
                after: None,
                by: Some(Op::Release(_) | Op::Settle(..)),
            } = fact
            {
                let key_name = &view.keys[*key];
                let line = view.store.line(key_name);
                let stands = |hand: &HandRef| line.contains(&hand.subscription());
                let processes = view.processes.iter();
                let told = processes.filter_map(|it| it.told_of(key_name, view.at));
                let told = told.filter(|(hand, _)| stands(hand));
                let waiting = told.map(|(hand, owner)| (hand, owner.process().clone()));
                let free = Free {
                    since: view.at,
                    in_line: u32::try_from(line.len()).unwrap_or(0),
                    waiting: waiting.collect(),
                };
                self.free.insert(*key, free);
            }
        }
        let waits = |(hand, process): &(HandRef, ProcessHash)| {
            let told = view.processes[hand.process].is_told((hand.boot, hand.hand));
            told && view.store.is_alive(process)
        };
        for (key, free) in &mut self.free {
            free.waiting.retain(waits);
            let free_for = view.at.saturating_sub(free.since);
            // Also at the grant itself: whoever gets it has not heard of that yet.
            if free_for > SOON + TURN * free.in_line && !free.waiting.is_empty() {
                let key = &view.keys[*key];
                let how = format!("{key} is free for {free_for:?}, and somebody waits for it");
                return Err(Violation::new("L1 (whoever waits has it soon)", how));
            }
        }
        self.free.retain(|key, free| {
            !free.waiting.is_empty() && view.store.holder(&view.keys[*key]).is_none()
        });
        Ok(())
    }
}
