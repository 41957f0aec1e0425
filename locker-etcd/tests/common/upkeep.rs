//! What a server keeps for its lockers: it must stay the same however long they run (L8).

use etcd_client::{Client, GetOptions, KeyValue};
use locker_testkit::servers::etcd::{Server, Setup};
use std::error::Error;
use std::fmt;

/// How much more memory a server may have at the end of a flat run: etcd's own caches breathe.
const SERVER_GROWTH: u64 = 64 * 1024 * 1024;

/// A server that forgets old revisions by itself, and soon. It keeps so many entries of its log in
/// memory; with the 100,000 that are usual it would grow for as long as a short run lasts.
pub(crate) fn compacting(setup: Setup) -> Setup {
    setup
        .flag("auto-compaction-mode", "periodic")
        .flag("auto-compaction-retention", "10s")
        .flag("snapshot-count", "1000")
}

/// What a server keeps at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upkeep {
    pub(crate) leases: usize,
    /// Of all namespaces, enrolments and marks included.
    pub(crate) keys: Vec<String>,
    pub(crate) streams: u64,
    pub(crate) watchers: u64,
    pub(crate) connections: usize,
    /// Resident bytes.
    pub(crate) memory: u64,
}

impl Upkeep {
    /// What the server says of itself now.
    pub(crate) async fn of(server: &Server) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let port = server.member().port();
        // Before the client that asks the rest is one of them.
        let connections = connections(port)?;
        let address = server.url().trim_start_matches("etcd://").to_owned();
        let mut client = Client::connect([address], None).await?;
        let all = GetOptions::new().with_prefix().with_keys_only();
        let found = client.get("", Some(all)).await?;
        let name = |kv: &KeyValue| String::from_utf8_lossy(kv.key()).into_owned();
        Ok(Self {
            leases: client.leases().await?.leases().len(),
            keys: found.kvs().iter().map(name).collect(),
            streams: gauge(server, "etcd_debugging_mvcc_watch_stream_total")?,
            watchers: gauge(server, "etcd_debugging_mvcc_watcher_total")?,
            connections,
            memory: gauge(server, "process_resident_memory_bytes")?,
        })
    }

    /// What has grown since an earlier moment, beyond what is allowed; nothing, if it is flat.
    pub(crate) fn grown_since(&self, before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        let mut same = |what: &str, before: u64, now: u64| {
            if now != before {
                grown.push(format!("the server had {before} {what} and has {now}"));
            }
        };
        same("leases", before.leases as u64, self.leases as u64);
        same("watch streams", before.streams, self.streams);
        same("watchers", before.watchers, self.watchers);
        same(
            "connections",
            before.connections as u64,
            self.connections as u64,
        );
        let new = self.keys.iter().filter(|key| !before.keys.contains(key));
        grown.extend(new.map(|key| format!("the server keeps {key}")));
        let more = self.memory.saturating_sub(before.memory);
        if more > SERVER_GROWTH {
            grown.push(format!("the server has {} KiB more memory", more / 1024));
        }
        grown
    }
}

impl fmt::Display for Upkeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            leases,
            keys,
            streams,
            watchers,
            connections,
            memory,
        } = self;
        let (keys, kib) = (keys.len(), memory / 1024);
        write!(
            f,
            "{leases} leases, {keys} keys, {streams} watch streams, {watchers} watchers, \
             {connections} connections, {kib} KiB"
        )
    }
}

fn gauge(server: &Server, name: &str) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let value: f64 = server.member().metric(name)?.parse()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a gauge counts, and a large one comes as `1.234e+06`"
    )]
    Ok(value as u64)
}

/// Connections to this port of this machine, as their clients' ends.
fn connections(port: u16) -> std::io::Result<usize> {
    const ESTABLISHED: &str = "01";
    let remote = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let of_port = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some(remote.as_str()) && words.next() == Some(ESTABLISHED)
    };
    Ok(table.lines().filter(of_port).count())
}
