//! The slots of a cluster: in which one a lock lies, and which node has it.

use crate::connection::Connection;
use crate::error;
use crate::reply;
use crate::url::Address;
use locker_core::BackendError;
use redis::Value;
use std::collections::BTreeSet;

/// Slots that lie side by side on one primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u16,
    pub(crate) last: u16,
    /// What the primary is called within its cluster, wherever it is.
    pub(crate) id: String,
    /// As the cluster announces it. A node may not know its own, and tells none; one that listens
    /// everywhere may tell just that.
    pub(crate) primary: Option<Address>,
}

/// The ranges of all primaries, in the order of the slots, as a node of the cluster sees them now.
///
/// # Errors
///
/// When no node answers, or the one that does knows of no slots.
pub(crate) async fn ask(connection: &Connection) -> Result<Vec<Range>, BackendError> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let value = connection.query(&command).await;
    let value = value.map_err(|cause| error::from_redis(cause, connection.stage()))?;
    let mut ranges = ranges(&value);
    ranges.sort_by_key(|range| range.first);
    if ranges.is_empty() {
        return Err(error::unavailable(
            "the node of the cluster knows of no slots",
        ));
    }
    Ok(ranges)
}

/// The slot of a name: that of what stands between its first `{` and the next `}`, if anything does.
pub(crate) fn of(name: &str) -> u16 {
    const SLOTS: u16 = 16_384;
    let tag = name
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map_or("", |(tag, _)| tag);
    let tag = if tag.is_empty() { name } else { tag };
    crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes()) % SLOTS
}

/// Who has slots.
pub(crate) fn owners(ranges: &[Range]) -> BTreeSet<&str> {
    ranges.iter().map(|range| range.id.as_str()).collect()
}

/// The range of a slot, of ranges that are in the order of the slots.
pub(crate) fn range_of(ranges: &[Range], slot: u16) -> Option<&Range> {
    let after = ranges.partition_point(|range| range.first <= slot);
    let range = ranges.get(after.checked_sub(1)?)?;
    (slot <= range.last).then_some(range)
}

fn ranges(slots: &Value) -> Vec<Range> {
    let Value::Array(ranges) = slots else {
        return Vec::new();
    };
    ranges.iter().filter_map(range).collect()
}

fn range(range: &Value) -> Option<Range> {
    let Value::Array(range) = range else {
        return None;
    };
    let number = |place: usize| u16::try_from(reply::number(range.get(place)?)?).ok();
    let Value::Array(primary) = range.get(2)? else {
        return None;
    };
    let host = reply::text(primary.first()?);
    let host = host.filter(|host| !matches!(*host, "" | "?" | "0.0.0.0" | "::"));
    let port = u16::try_from(reply::number(primary.get(1)?)?).ok()?;
    Some(Range {
        first: number(0)?,
        last: number(1)?,
        id: reply::text(primary.get(2)?)?.to_owned(),
        primary: host.map(|host| (host.to_owned(), port)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::cluster_routing::Slot;

    /// The figures of `CLUSTER KEYSLOT`.
    #[test]
    fn slots_are_those_of_a_server() {
        let known = [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("locker:{foo}", 12_182),
            ("locker:{foo}:mail:1", 12_182),
            ("foo{}", 5_542),
            ("foo{", 7_673),
            ("foo{}{bar}", 8_363),
            ("ns:{a{b}", 13_340),
        ];
        for (name, slot) in known {
            assert_eq!(of(name), slot, "{name}");
            // And those of the client.
            assert_eq!(Slot::new(slot), Some(Slot::for_key(name)), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node = |host: Value, port: i64| Value::Array(vec![host, Value::Int(port), text("id")]);
        let row = |last: i64, node: Value| {
            Value::Array(vec![Value::Int(0), Value::Int(last), node, Value::Nil])
        };
        let slots = Value::Array(vec![
            row(99, node(text("a"), 1)),
            row(99, node(Value::Nil, 1)),
            row(99, node(text(""), 1)),
            row(99, node(text("?"), 1)),
            row(99, node(text("0.0.0.0"), 1)),
            row(99, node(text("::"), 1)),
            row(99, node(text("a"), 65_536)),
            // It has no name, as before Redis 4.
            row(99, Value::Array(vec![text("a"), Value::Int(1)])),
            row(65_536, node(text("a"), 1)),
            row(99, Value::Nil),
            Value::Array(Vec::new()),
            Value::Nil,
        ]);
        let range = |primary| Range {
            first: 0,
            last: 99,
            id: "id".to_owned(),
            primary,
        };
        let mut expected = vec![range(Some(("a".to_owned(), 1)))];
        expected.extend((0..5).map(|_| range(None)));
        assert_eq!(ranges(&slots), expected);
        assert_eq!(ranges(&Value::Nil), []);
    }
}
