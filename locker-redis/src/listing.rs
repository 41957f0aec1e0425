//! Listings, in pages, for people and tools, by SCAN: it looks at a bounded number of keys at a time
//! and never holds the server.
//!
//! A step of SCAN may find more than a page takes. The names that are left over travel in the
//! cursor, so the next page begins with them and nothing is skipped. A name that is there throughout
//! is listed; it may be listed twice if the server shrinks its table meanwhile.
//!
//! A cursor is `NODE SCAN NAME NAME…`: on a cluster the primary that is being scanned, its own
//! cursor, and the names, percent-encoded. Primaries are scanned in the order of their addresses.

use crate::connection::Connection;
use crate::error;
use crate::locks::read;
use crate::reply;
use crate::session::Session;
use futures_util::future::join_all;
use locker_core::backend::{Answer, Cursor, Held, Listing, Liveness, Page, Reply};
use locker_core::{BackendError, Effect, ErrorKind, ProcessData, StoreTime};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use redis::Value;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use std::collections::BTreeSet;

/// How many keys one step of SCAN looks at, whatever the page.
const SCAN: u32 = 512;

/// Where a listing stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Position {
    /// The primary; empty where there is one server.
    node: String,
    scan: u64,
    left: Vec<String>,
}

/// What one step has found: names, and where the next one begins.
struct Step {
    names: Vec<String>,
    next: Option<Position>,
}

impl Session {
    pub(crate) async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        let pattern = self.names.lock_pattern(prefix);
        let step = self.step(&pattern, page).await?;
        let keys: Vec<_> = step
            .names
            .iter()
            .filter_map(|name| self.names.key_of(name))
            .collect();
        let members = keys.iter().map(|key| self.member(key, "read", []));
        let answers = self.send_all(members.collect()).await?;
        let time = answers.iter().flatten().map(|answered| answered.time).min();
        let items = answers
            .into_iter()
            .zip(&keys)
            .map(|(answer, key)| async move {
                let held = match answer {
                    Ok(answered) => read(answered.time, key, &answered.fields),
                    Err(error) => Err(error),
                };
                match held {
                    Ok(Some(held)) => Some(self.with_holder(held).await),
                    Ok(None) => None,
                    Err(error) => Some(Err(error)),
                }
            });
        let items = join_all(items).await.into_iter().flatten().collect();
        Ok(listing(time, items, step.next))
    }

    pub(crate) async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        let step = self.step(&self.names.process_pattern(), page).await?;
        let processes = step
            .names
            .iter()
            .filter_map(|name| self.names.process_of(name));
        let reads = processes.map(|process| async move { self.read_process(&process).await });
        let mut time: Option<StoreTime> = None;
        let mut items = Vec::new();
        for answer in join_all(reads).await {
            match answer {
                Ok(reply) => {
                    time = time.min(reply.store_time).or(reply.store_time);
                    if let Liveness::Alive(data) = reply.value {
                        items.push(Ok(data));
                    }
                }
                Err(error) => items.push(Err(error)),
            }
        }
        Ok(listing(time, items, step.next))
    }

    /// The names of one page.
    async fn step(&self, pattern: &str, page: &Page) -> Result<Step, BackendError> {
        let limit = page.limit.max(1) as usize;
        let position = match &page.after {
            Some(cursor) => Position::read(cursor)?,
            None => Position {
                node: self.next_node("").await?.unwrap_or_default(),
                ..Position::default()
            },
        };
        let mut names = BTreeSet::from_iter(position.left.iter().cloned());
        let mut next = Position {
            left: Vec::new(),
            ..position.clone()
        };
        let mut ended = false;
        if names.is_empty() {
            let (scan, found) = self.scan(&position, pattern).await?;
            names.extend(found);
            next.scan = scan;
            if scan == 0 {
                match self.next_node(&position.node).await? {
                    Some(node) => next.node = node,
                    None => ended = true,
                }
            }
        } else {
            // The step that found these is over: the cursor stands behind it already.
            ended = position.scan == 0 && position.node == END;
        }
        let mut names: Vec<String> = names.into_iter().collect();
        next.left = names.split_off(limit.min(names.len()));
        if ended {
            END.clone_into(&mut next.node);
            next.scan = 0;
        }
        let over = ended && next.left.is_empty();
        Ok(Step {
            names,
            next: (!over).then_some(next),
        })
    }

    async fn scan(
        &self,
        position: &Position,
        pattern: &str,
    ) -> Result<(u64, Vec<String>), BackendError> {
        let mut command = redis::cmd("SCAN");
        command.arg(position.scan).arg("MATCH").arg(pattern);
        command.arg("COUNT").arg(SCAN);
        let value = match &self.connection {
            Connection::Server(_) => self.connection.query(&command).await,
            Connection::Cluster(cluster) => {
                let Some((host, port)) = address(&position.node) else {
                    return Ok((0, Vec::new()));
                };
                let node = SingleNodeRoutingInfo::ByAddress { host, port };
                let route = RoutingInfo::SingleNode(node);
                cluster.clone().route_command(command, route).await
            }
        };
        let value = value.map_err(|cause| error::from_redis(cause, self.connection.stage()))?;
        let Value::Array(parts) = value else {
            return Err(error::unexpected("SCAN"));
        };
        let (Some(scan), Some(Value::Array(names))) =
            (parts.first().and_then(reply::number), parts.get(1))
        else {
            return Err(error::unexpected("SCAN"));
        };
        // A name that is no text is none of ours.
        let names = names.iter().filter_map(reply::text).map(str::to_owned);
        Ok((scan, names.collect()))
    }

    /// The primary after this one; none on a server alone.
    async fn next_node(&self, after: &str) -> Result<Option<String>, BackendError> {
        if !self.connection.is_cluster() {
            return Ok(None);
        }
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let value = self.connection.query(&command).await;
        let value = value.map_err(|cause| error::from_redis(cause, self.connection.stage()))?;
        Ok(primaries(&value)
            .into_iter()
            .find(|node| node.as_str() > after))
    }
}

/// In the place of a node: all of them were scanned. It sorts behind every address.
const END: &str = "~";

/// The addresses of the nodes that have slots.
fn primaries(slots: &Value) -> BTreeSet<String> {
    let mut nodes = BTreeSet::new();
    let Value::Array(ranges) = slots else {
        return nodes;
    };
    for range in ranges {
        let Value::Array(range) = range else { continue };
        let Some(Value::Array(primary)) = range.get(2) else {
            continue;
        };
        let host = primary.first().and_then(reply::text);
        let port = primary.get(1).and_then(reply::number);
        if let Some((host, port)) = host.zip(port) {
            nodes.insert(format!("{host}:{port}"));
        }
    }
    nodes
}

fn address(node: &str) -> Option<(String, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

fn listing<T>(time: Option<StoreTime>, items: Vec<T>, next: Option<Position>) -> Reply<Listing<T>> {
    Reply {
        value: Listing {
            items,
            next: next.map(|position| position.write()),
        },
        store_time: time,
    }
}

impl Position {
    fn write(&self) -> Cursor {
        let mut text = format!("{} {}", encoded(&self.node), self.scan);
        for name in &self.left {
            text.push(' ');
            text.push_str(&encoded(name));
        }
        Cursor::new(text)
    }

    fn read(cursor: &Cursor) -> Result<Self, BackendError> {
        let mut parts = cursor.as_str().split(' ');
        let position = (|| {
            let node = decoded(parts.next()?)?;
            let scan = parts.next()?.parse().ok()?;
            let left: Option<Vec<String>> = parts.map(decoded).collect();
            Some(Self {
                node,
                scan,
                left: left?,
            })
        })();
        position.ok_or_else(|| {
            BackendError::new(
                ErrorKind::Rejected,
                Effect::NotApplied,
                "the place in the listing is not one that this store gave out",
            )
        })
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn decoded(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back() {
        for position in [
            Position::default(),
            Position {
                node: "10.0.0.1:7000".into(),
                scan: u64::MAX,
                left: vec!["ns:{a b}".into(), "ns:{%25\n}".into()],
            },
        ] {
            assert_eq!(Position::read(&position.write()).unwrap(), position);
        }
    }

    #[test]
    fn foreign_cursors_are_refused() {
        for text in ["", "x", "x y", "x -1", "x 1 %ff"] {
            let error = Position::read(&Cursor::new(text)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Rejected, "{text:?}");
        }
    }
}
