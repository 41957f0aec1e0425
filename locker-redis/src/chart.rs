//! Which slots of a cluster lie behind which gate, and whether most primaries see it like that.
//!
//! No safety rests on the chart but in one case. That a process is dead is final, and the lock that it held
//! may lie elsewhere. So whoever is told so must know that it was told by the primary of that slot.
//!
//! # Why a primary's own word is not enough
//!
//! A primary that stands still (it was stopped, or its disk hangs) is replaced by a replica. When it goes
//! on it serves what lies in its sockets, and for a while what comes after that: it hears that it was
//! replaced from the others, as one message among many. Until then it takes writes, and whoever has
//! reported to the replica meanwhile is dead by its records.
//!
//! So the other primaries are asked afterwards, and most of them, this one among them, must name it. A
//! replica is promoted by most primaries, so of any other majority at least one has taken part in that; and
//! it has heard of the promotion before anybody could rely on it. For whoever is dead by the old records
//! and lives by the new ones has reported to the replica at least as long before its time was over as clocks
//! may differ, and the hard margin: more than a second by default, in which a message gets through.

use crate::connection::Connection;
use crate::pipelines::Pipelines;
use crate::slots::{self, Range};
use crate::url::Address;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use locker_coalesce::Gate;
use redis::aio::MultiplexedConnection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The gates of the primaries that can be reached.
pub(crate) type Gates = BTreeMap<Address, Arc<Gate<Pipelines>>>;

#[derive(Debug, Default)]
pub(crate) struct Chart {
    /// In the order of the slots. Slots that nobody serves are missing.
    ranges: Vec<Range>,
    gates: Gates,
    /// Whether no connection is being opened.
    pub(crate) is_finished: bool,
}

impl Chart {
    pub(crate) fn of(ranges: &[Range], gates: &Gates, is_finished: bool) -> Self {
        Self {
            ranges: ranges.to_vec(),
            gates: gates.clone(),
            is_finished,
        }
    }

    pub(crate) fn has_gates(&self) -> bool {
        !self.gates.is_empty()
    }

    pub(crate) fn gate(&self, slot: u16) -> Option<&Arc<Gate<Pipelines>>> {
        self.gates
            .get(range_of(&self.ranges, slot)?.primary.as_ref()?)
    }

    /// The gate of a primary whose connection has not broken.
    pub(crate) fn sound_gate(&self, primary: &Address) -> Option<Arc<Gate<Pipelines>>> {
        let gate = self.gates.get(primary)?;
        (!gate.carrier().is_broken()).then(|| Arc::clone(gate))
    }

    /// The connections that have not broken, with the primaries that they lead to.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&Address, MultiplexedConnection)> {
        let carriers = self.gates.iter().map(|(to, gate)| (to, gate.carrier()));
        let sound = carriers.filter(|(_, carrier)| !carrier.is_broken());
        sound.map(|(to, carrier)| (to, carrier.line.clone()))
    }

    /// Whether another primary than that of the slot can be asked.
    pub(crate) fn has_others(&self, slot: u16) -> bool {
        let range = range_of(&self.ranges, slot);
        let primary = range.and_then(|range| range.primary.as_ref());
        self.lines().any(|(to, _)| Some(to) != primary)
    }

    /// Whether the primary of the slot tells no address. Then nothing leads to it but the client of the
    /// cluster, and nobody knows which node that asks.
    pub(crate) fn is_nameless(&self, slot: u16) -> bool {
        range_of(&self.ranges, slot).is_some_and(|range| range.primary.is_none())
    }

    /// Whether most primaries say now that the slot is that of the primary behind its gate, which has just
    /// answered as one, and so is not asked.
    pub(crate) async fn is_confirmed(&self, slot: u16) -> bool {
        let Some(range) = range_of(&self.ranges, slot) else {
            return false;
        };
        let others = self
            .lines()
            .filter(|(to, _)| Some(*to) != range.primary.as_ref());
        let mut asked: FuturesUnordered<_> = others
            .map(|(_, line)| async move { slots::ask(&Connection::Server(line)).await })
            .collect();
        // Others may know of more primaries than the chart does.
        let (mut agreed, mut all) = (1, count(&self.ranges));
        while 2 * agreed <= all {
            match asked.next().await {
                Some(Ok(ranges)) => {
                    if range_of(&ranges, slot).is_none_or(|theirs| theirs.id != range.id) {
                        return false;
                    }
                    agreed += 1;
                    all = all.max(count(&ranges));
                }
                Some(Err(_)) => {}
                None => return false,
            }
        }
        true
    }

    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let mut pairs = self.gates.iter().zip(&other.gates);
        self.ranges == other.ranges
            && self.gates.len() == other.gates.len()
            && pairs.all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
    }
}

/// Of ranges that are in the order of the slots.
fn range_of(ranges: &[Range], slot: u16) -> Option<&Range> {
    let after = ranges.partition_point(|range| range.first <= slot);
    let range = ranges.get(after.checked_sub(1)?)?;
    (slot <= range.last).then_some(range)
}

/// How many primaries there are.
fn count(ranges: &[Range]) -> usize {
    let ids: BTreeSet<&str> = ranges.iter().map(|range| range.id.as_str()).collect();
    ids.len()
}
