//! Which slots of a cluster lie behind which gate, and whether most primaries see it like that.
//!
//! No safety rests on the chart but in two cases, where an answer is final. That a process is dead is, and
//! the lock that it held may lie elsewhere. And that a claim can take no effect any more is. So whoever is
//! told so must know that it was told by the primary of that slot.
//!
//! # Why a primary's own word is not enough
//!
//! A primary that stands still (it was stopped, or its disk hangs) is replaced by a replica. When it goes
//! on it serves what lies in its sockets, and for a while what comes after that: it hears that it was
//! replaced from the others, as one message among many. Until then it takes writes, and whoever has
//! reported to the replica meanwhile is dead by its records.
//!
//! So all primaries are asked afterwards, and most of them, this one among them, must name it. A replica is
//! promoted by most primaries, so of any other majority at least one has voted. A primary votes because it
//! takes the old one for failed, and it says so from before its vote until it has heard of the promotion,
//! and then it names the replica. In neither case does it agree. (If it hears of no promotion it forgets
//! the failure at the earliest after twice `cluster-node-timeout`. So where no replica takes the place, for
//! as long nobody is called dead there.)
//!
//! # Who counts
//!
//! Two majorities meet only where they are of the same primaries, and the chart may be old: whoever has
//! asked nothing of a slot has not noticed that its primary was replaced. A former primary that is cut off
//! from the others says what once was so. It has no voice, for or against: it hears few of them. One that
//! stood still as well, was replaced, and goes on in the same moment, hears them all, as it did before. So
//! those who agree must hear *each other*. Of these, let one be the first that was replaced: most of the
//! primaries of then have voted, so one of those who agree has; and that one does not hear it, or knows
//! who took its place.
//!
//! One that has heard what it is now is no witness either, but its dissent counts, as that of everybody who
//! hears most of the others. And who dissents may be slower than who agrees, so nobody's word is taken
//! before the others had a moment, too.
//!
//! # What this does not cover
//!
//! `CLUSTER FAILOVER FORCE` has the primaries vote for a replica whose primary they hear, and `TAKEOVER` asks
//! nobody. Then they agree until the replica's message has arrived. Whoever is dead by the old records and
//! lives by the new ones has reported to the replica at least as long before its time was over as clocks may
//! differ, and the hard margin: 1.2 s by default if they do not differ, and 0.2 s if they differ by all that
//! is allowed. In that time it must have arrived. A cluster with one primary has no other way to replace it
//! while it stands still, and nobody who could say so.
//!
//! And a primary that is cut off from the replica after its vote, before the replica's first message, and
//! hears the old primary again from then on, forgets both: the network must have changed sides in that
//! moment, and nobody who knows better be heard here.

use crate::cluster::pipelines::Pipelines;
use crate::cluster::slots::{self, Range};
use crate::cluster::witnesses::{self, Witnesses};
use crate::connection::Connection;
use crate::url::Address;
use locker_coalesce::Gate;
use redis::aio::MultiplexedConnection;
use std::collections::BTreeMap;
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
    witnesses: Witnesses,
}

impl Chart {
    pub(crate) fn of(ranges: &[Range], gates: &Gates, is_finished: bool) -> Self {
        Self {
            ranges: ranges.to_vec(),
            gates: gates.clone(),
            is_finished,
            witnesses: Witnesses::default(),
        }
    }

    pub(crate) fn has_gates(&self) -> bool {
        !self.gates.is_empty()
    }

    pub(crate) fn gate(&self, slot: u16) -> Option<&Arc<Gate<Pipelines>>> {
        self.gates
            .get(slots::range_of(&self.ranges, slot)?.primary.as_ref()?)
    }

    /// The gate of this primary, if it is the one that was there before, and its connection has not broken.
    /// Where addresses are given away, another one may announce what was its address.
    pub(crate) fn kept_gate(&self, range: &Range) -> Option<Arc<Gate<Pipelines>>> {
        let mut known = self.ranges.iter();
        known.find(|known| known.primary == range.primary && known.id == range.id)?;
        self.sound_gate(range.primary.as_ref()?)
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
        let range = slots::range_of(&self.ranges, slot);
        let primary = range.and_then(|range| range.primary.as_ref());
        self.lines().any(|(to, _)| Some(to) != primary)
    }

    /// Whether the primary of the slot tells no address. Then nothing leads to it but the client of the
    /// cluster, and nobody knows which node that asks.
    pub(crate) fn is_nameless(&self, slot: u16) -> bool {
        slots::range_of(&self.ranges, slot).is_some_and(|range| range.primary.is_none())
    }

    /// Whether the primaries say now that the slot is that of the primary behind its gate.
    pub(crate) async fn is_confirmed(&self, slot: u16) -> bool {
        let Some(range) = slots::range_of(&self.ranges, slot) else {
            return false;
        };
        let all = slots::owners(&self.ranges).len();
        let lines = || self.lines().map(|(_, line)| Connection::Server(line));
        let views = self.witnesses.hear(|| witnesses::ask(lines(), all));
        witnesses::agree(&views.await, slot, &range.id, all)
    }

    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let mut pairs = self.gates.iter().zip(&other.gates);
        self.ranges == other.ranges
            && self.gates.len() == other.gates.len()
            && pairs.all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
    }
}
