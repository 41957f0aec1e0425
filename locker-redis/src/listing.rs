//! Listings, in pages, for people and tools, by SCAN: it looks at a bounded number of keys at a time
//! and never holds the server.
//!
//! A page takes as many steps of SCAN as it needs to be full, up to a limit: so it may be short, or
//! empty, and there is still more. A step may find more than a page takes. The names that are left
//! over travel in the cursor, so the next page begins with them and nothing is skipped. A name that
//! is there throughout is listed; on two pages if the server shrinks its table meanwhile.
//!
//! A cursor is `NODE SCAN NAME NAME…`: on a cluster the primary that is being scanned, its own
//! cursor, and the names, percent-encoded. Primaries are scanned in the order of their addresses.

use crate::cluster::primaries::{Death, Waits};
use crate::cluster::slots;
use crate::connection::Connection;
use crate::error;
use crate::locks::read;
use crate::reply;
use crate::session::Session;
use crate::url;
use futures_util::future::join_all;
use locker_core::backend::{Answer, Cursor, Held, Listing, Liveness, Page, Reply};
use locker_core::{BackendError, Effect, ErrorKind, Key, ProcessData, StoreTime};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use redis::Value;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use std::collections::BTreeSet;

/// How many keys one step of SCAN looks at.
const STEP: u32 = 512;
/// How many steps a page takes at most: 65,536 keys, a fraction of a second.
const STEPS: u32 = 128;

/// Where a listing stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Position {
    /// The primary; empty where there is one server.
    node: String,
    scan: u64,
    left: Vec<String>,
}

/// The steps of one page.
#[derive(Debug)]
struct Walk {
    pattern: String,
    /// Where the next step begins; nowhere at the end.
    position: Option<Position>,
    steps: u32,
    seen: BTreeSet<String>,
}

/// What was found under a name.
type Named<T> = (String, Result<T, BackendError>);

impl Session {
    pub(crate) async fn list_locks(
        &self,
        prefix: &str,
        page: &Page,
    ) -> Answer<Listing<Result<Held, BackendError>>> {
        let mut walk = self.walk(self.names.lock_pattern(prefix), page).await?;
        let mut time = None;
        let mut items = Vec::new();
        while items.len() < limit(page) {
            let Some(names) = self.step(&mut walk).await? else {
                break;
            };
            items.extend(self.read_locks(names, &mut time).await?);
        }
        Ok(walk.end(page, items, time))
    }

    async fn read_locks(
        &self,
        names: Vec<String>,
        time: &mut Option<StoreTime>,
    ) -> Result<Vec<Named<Held>>, BackendError> {
        let keyed = names
            .into_iter()
            .filter_map(|name| Some((self.names.key_of(&name)?, name)));
        let keyed: Vec<(Key, String)> = keyed.collect();
        let members = keyed.iter().map(|(key, _)| self.member(key, "read", []));
        let answers = self.send_all(members.collect(), Waits::ForAll).await?;
        *time = answers
            .iter()
            .flatten()
            .map(|answered| answered.time)
            .min()
            .or(*time);
        let items = answers
            .into_iter()
            .zip(keyed)
            .map(|(answer, (key, name))| async move {
                let held = answer.and_then(|answered| read(answered.time, &key, &answered.fields));
                let held = match held.transpose()? {
                    Ok(held) => self.with_holder(held).await,
                    Err(error) => Err(error),
                };
                Some((name, held))
            });
        Ok(join_all(items).await.into_iter().flatten().collect())
    }

    pub(crate) async fn list_processes(
        &self,
        page: &Page,
    ) -> Answer<Listing<Result<ProcessData, BackendError>>> {
        let mut walk = self.walk(self.names.process_pattern(), page).await?;
        let mut time = None;
        let mut items = Vec::new();
        while items.len() < limit(page) {
            let Some(names) = self.step(&mut walk).await? else {
                break;
            };
            items.extend(self.read_processes(names, &mut time).await);
        }
        Ok(walk.end(page, items, time))
    }

    async fn read_processes(
        &self,
        names: Vec<String>,
        time: &mut Option<StoreTime>,
    ) -> Vec<Named<ProcessData>> {
        let known = names
            .into_iter()
            .filter_map(|name| Some((self.names.process_of(&name)?, name)));
        let reads = known.map(|(process, name)| async move {
            let looked = self.look_at_process(&process, Death::IsShown).await;
            (name, looked)
        });
        let mut items = Vec::new();
        for (name, answer) in join_all(reads).await {
            match answer {
                Ok(reply) => {
                    *time = reply.store_time.or(*time);
                    if let (Liveness::Alive(data), _) = reply.value {
                        items.push((name, Ok(data)));
                    }
                }
                Err(error) => items.push((name, Err(error))),
            }
        }
        items
    }

    async fn walk(&self, pattern: String, page: &Page) -> Result<Walk, BackendError> {
        let position = match &page.after {
            Some(cursor) => Position::read(cursor)?,
            None => Position {
                node: self.next_node("").await?.unwrap_or_default(),
                ..Position::default()
            },
        };
        Ok(Walk {
            pattern,
            position: Some(position),
            steps: 0,
            seen: BTreeSet::new(),
        })
    }

    /// The names of the next step; none when the page has taken its steps, or there is no more.
    async fn step(&self, walk: &mut Walk) -> Result<Option<Vec<String>>, BackendError> {
        let Some(position) = &mut walk.position else {
            return Ok(None);
        };
        if walk.steps == STEPS {
            return Ok(None);
        }
        walk.steps += 1;
        let mut found = std::mem::take(&mut position.left);
        if found.is_empty() && position.node != END {
            let (scan, names) = self.scan(position, &walk.pattern).await?;
            found = names;
            position.scan = scan;
            if scan == 0 {
                let node = self.next_node(&position.node).await?;
                position.node = node.unwrap_or_else(|| END.to_owned());
            }
        }
        if position.node == END {
            walk.position = None;
        }
        found.retain(|name| walk.seen.insert(name.clone()));
        Ok(Some(found))
    }

    async fn scan(
        &self,
        position: &Position,
        pattern: &str,
    ) -> Result<(u64, Vec<String>), BackendError> {
        let mut command = redis::cmd("SCAN");
        command.arg(position.scan).arg("MATCH").arg(pattern);
        command.arg("COUNT").arg(STEP);
        let value = match &self.connection {
            Connection::Server(_) => self.connection.query(&command).await,
            Connection::Cluster(cluster) => {
                let Some((host, port)) = url::address(&position.node) else {
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
        let ranges = slots::ask(&self.connection).await?;
        let nodes = ranges.into_iter().map(|range| {
            let (host, port) = range.primary.ok_or_else(|| {
                // Only who configures the cluster can change that.
                error::config("a primary of the cluster does not tell its address")
            })?;
            Ok(format!("{host}:{port}"))
        });
        let nodes: Vec<String> = nodes.collect::<Result<_, BackendError>>()?;
        Ok(nodes.into_iter().filter(|node| node.as_str() > after).min())
    }
}

/// In the place of a node: all of them were scanned. It sorts behind every address.
const END: &str = "~";

fn limit(page: &Page) -> usize {
    page.limit.max(1) as usize
}

impl Walk {
    /// The page, and in its cursor what it does not take.
    fn end<T>(
        self,
        page: &Page,
        mut items: Vec<Named<T>>,
        store_time: Option<StoreTime>,
    ) -> Reply<Listing<Result<T, BackendError>>> {
        let rest = items.split_off(limit(page).min(items.len()));
        let left: Vec<String> = rest.into_iter().map(|(name, _)| name).collect();
        let end = || Position {
            node: END.to_owned(),
            ..Position::default()
        };
        let next = match self.position {
            None if left.is_empty() => None,
            position => Some(Position {
                left,
                ..position.unwrap_or_else(end)
            }),
        };
        Reply {
            value: Listing {
                items: items.into_iter().map(|(_, item)| item).collect(),
                next: next.map(|position| position.write()),
            },
            store_time,
        }
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
