//! A cluster as one of its nodes sees it: who that is, whom it hears, and whose the slots are.
//!
//! `CLUSTER NODES` and not `CLUSTER SLOTS`, which tells the slots only. A node that is cut off from the
//! others tells them as it knew them, to everybody who asks, and nothing in them says how old they are.

use crate::connection::Connection;
use crate::error;
use locker_core::BackendError;
use redis::Value;

/// What a node says of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View(Vec<Node>);

/// A primary or a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// What it is called within its cluster, wherever it is.
    pub(crate) id: String,
    /// Whether it is the one that says all this.
    is_myself: bool,
    is_master: bool,
    /// Whether it is not heard, by whoever says this (`fail?`) or by most primaries (`fail`).
    is_failing: bool,
    /// That of its last promotion, or of the last slots that it took over.
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

/// The cluster, as the node behind this connection sees it now.
///
/// # Errors
///
/// When it does not answer, or what it answers is no such view.
pub(crate) async fn ask(connection: &Connection) -> Result<View, BackendError> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("NODES");
    let value = connection.query(&command).await;
    let value = value.map_err(|cause| error::from_redis(cause, connection.stage()))?;
    let view = match &value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().and_then(View::parse),
        Value::VerbatimString { text, .. } => View::parse(text),
        _ => None,
    };
    view.ok_or_else(|| error::unexpected("a question about the nodes of the cluster"))
}

impl View {
    /// Nothing where not all of it can be read: what is missing might be what speaks against the rest.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.lines().map(node).collect::<Option<_>>().map(Self)
    }

    /// The node whose view it is.
    pub(crate) fn myself(&self) -> Option<&Node> {
        self.0.iter().find(|node| node.is_myself)
    }

    /// Whose the slot is.
    pub(crate) fn primary(&self, slot: u16) -> Option<&Node> {
        let holds = |&(first, last): &(u16, u16)| (first..=last).contains(&slot);
        let mut primaries = self.all_primaries();
        primaries.find(|node| node.slots.iter().any(holds))
    }

    /// How many primaries there are.
    pub(crate) fn primaries(&self) -> usize {
        self.all_primaries().count()
    }

    /// How many primaries are heard, by the one who says this.
    pub(crate) fn heard(&self) -> usize {
        self.all_primaries().filter(|node| !node.is_failing).count()
    }

    /// Whether most primaries are.
    pub(crate) fn hears_most(&self) -> bool {
        2 * self.heard() > self.primaries()
    }

    /// Whether the node of this id is a primary, and is heard.
    pub(crate) fn hears(&self, id: &str) -> bool {
        let mut primaries = self.all_primaries();
        primaries.any(|node| node.id == id && !node.is_failing)
    }

    /// How new it is. Whoever takes slots over does it under an epoch that is greater than all others, and
    /// the cluster itself leaves a slot to whoever claims it under the greatest. So of two views the one
    /// in which that took place has the greater one, unless it had been the greatest before: a node that
    /// takes several slots over, one after the other, has a new epoch for the first. And who is cut off
    /// hears of no new one.
    pub(crate) fn epoch(&self) -> u64 {
        self.all_primaries()
            .map(|node| node.epoch)
            .max()
            .unwrap_or(0)
    }

    fn all_primaries(&self) -> impl Iterator<Item = &Node> {
        self.0.iter().filter(|node| node.is_primary())
    }
}

impl Node {
    /// Whether it is a master that has a voice: one without slots has none.
    pub(crate) fn is_primary(&self) -> bool {
        self.is_master && !self.slots.is_empty()
    }
}

/// `ID ADDRESS FLAGS MASTER PINGED PONGED EPOCH LINK SLOTS...`
fn node(line: &str) -> Option<Node> {
    let mut words = line.split_ascii_whitespace();
    let id = words.next()?.to_owned();
    let flags = words.nth(1)?;
    let epoch = words.nth(3)?.parse().ok()?;
    words.next()?;
    // In brackets stand slots that are being moved. Here they are still the ones of their old primary.
    let slots = words.filter(|word| !word.starts_with('[')).map(slots);
    let has = |flag: &str| flags.split(',').any(|word| word == flag);
    Some(Node {
        id,
        is_myself: has("myself"),
        is_master: has("master"),
        is_failing: has("fail") || has("fail?"),
        epoch,
        slots: slots.collect::<Option<_>>()?,
    })
}

/// `FIRST-LAST`, or one.
fn slots(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Redis 7.0 tells it, and as releases before it do.
    const NODES: &str = "\
q 127.0.0.1:7001@17001,host myself,master - 0 1426238316232 2 connected 5461-10922 16383 [93-<-p] [77->-r]
p 127.0.0.1:7000@17000 master,fail? - 1426238317741 1426238317741 1 disconnected 0-5460
r :0@0 master,fail,noaddr - 0 1426238316232 3 disconnected 10923-16382
s 127.0.0.1:7004@17004 slave r 0 1426238317738 9 connected
e 127.0.0.1:7005@17005 master - 0 1426238317738 8 connected
";

    #[test]
    fn a_view_is_read_as_a_server_tells_it() {
        let view = View::parse(NODES).unwrap();
        let myself = view.myself().unwrap();
        assert_eq!(myself.id, "q");
        assert_eq!(myself.slots, [(5461, 10_922), (16_383, 16_383)]);
        assert!(myself.is_primary() && !myself.is_failing);
        let of = |slot| view.primary(slot).map(|node| node.id.as_str());
        assert_eq!(of(0), Some("p"));
        assert_eq!(of(5460), Some("p"));
        assert_eq!(of(16_383), Some("q"));
        let failing = [0, 10_923].map(|slot| view.primary(slot).unwrap().is_failing);
        assert_eq!(failing, [true, true]);
        // Neither a replica nor who has no slots.
        assert_eq!((view.primaries(), view.epoch()), (3, 3));
        assert_eq!(View::parse("").unwrap().primary(0), None);
    }

    #[test]
    fn of_what_cannot_be_read_nothing_is_believed() {
        for text in [
            "p",
            "p a:1@2 master - 0 0",
            "p a:1@2 master - 0 0 x connected",
            "p a:1@2 master - 0 0 1",
            "p a:1@2 master - 0 0 1 connected 0-",
            "p a:1@2 master - 0 0 1 connected 65536",
        ] {
            assert_eq!(View::parse(text), None, "{text}");
        }
    }
}
