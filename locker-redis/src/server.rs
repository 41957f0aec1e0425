//! What a server says about itself, and whether this store can work with it.

use crate::connection::{Connection, Source};
use crate::error;
use locker_core::BackendError;
use redis::Value;

/// The oldest release with everything that the scripts need.
const OLDEST: Version = Version(6, 2);
/// The first release whose clusters have sharded channels.
const SHARDED: Version = Version(7, 0);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

/// The part of INFO that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    version: Version,
    mode: String,
    role: String,
    max_memory: u64,
    policy: String,
}

/// Asks every server of this connection about itself.
///
/// # Errors
///
/// `Config` when it is none that this store can use over this URL, with what to do about it;
/// `Unavailable` when it is not a master now.
pub(crate) async fn examine(
    source: &Source,
    connection: &Connection,
) -> Result<Vec<Server>, BackendError> {
    let info = connection.query(&redis::cmd("INFO")).await;
    let info = info.map_err(|cause| error::from_redis(cause, error::Stage::Connecting))?;
    let mut texts = Vec::new();
    gather(&info, &mut texts);
    if texts.is_empty() {
        return Err(error::config("the server does not say what it is"));
    }
    let servers = texts.iter().map(|text| {
        let server = Server::parse(text)?;
        server.check(source.is_cluster())?;
        Ok(server)
    });
    servers.collect()
}

/// A cluster answers with one text for each node.
fn gather(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::BulkString(bytes) => texts.push(String::from_utf8_lossy(bytes).into_owned()),
        Value::VerbatimString { text, .. } => texts.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| gather(value, texts)),
        Value::Map(pairs) => pairs.iter().for_each(|(_, value)| gather(value, texts)),
        _ => {}
    }
}

impl Server {
    fn parse(info: &str) -> Result<Self, BackendError> {
        let field = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        // Valkey calls this the release of Redis that it is compatible with.
        let version = field("redis_version").and_then(|text| {
            let mut numbers = text.split('.').map(str::parse);
            Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
        });
        let version = version.ok_or_else(|| error::config("the server is no Redis server"))?;
        let text = |name| field(name).unwrap_or_default().trim().to_owned();
        Ok(Self {
            version,
            mode: text("redis_mode"),
            role: text("role"),
            max_memory: text("maxmemory").parse().unwrap_or(0),
            policy: text("maxmemory_policy"),
        })
    }

    fn check(&self, as_cluster: bool) -> Result<(), BackendError> {
        let Version(major, minor) = self.version;
        if self.version < OLDEST {
            return Err(error::config(format!(
                "the server is Redis {major}.{minor}; this store needs Redis 6.2 or later"
            )));
        }
        match (self.mode.as_str(), as_cluster) {
            ("sentinel", _) => {
                return Err(error::config(
                    "this is a sentinel; its URL is redis+sentinel://HOST,HOST/NAME",
                ));
            }
            ("cluster", false) => {
                return Err(error::config(
                    "the server is a node of a cluster; its URL begins with redis+cluster:// or \
                     rediss+cluster://",
                ));
            }
            ("standalone", true) => {
                return Err(error::config(
                    "the server is no cluster; its URL begins with redis:// or rediss://",
                ));
            }
            _ => {}
        }
        if self.role != "master" {
            return Err(error::unavailable(
                "the server is a replica; the store needs its master",
            ));
        }
        Ok(())
    }

    /// Whether channels may lie beside keys.
    pub(crate) fn has_sharded_channels(&self) -> bool {
        self.version >= SHARDED
    }

    /// The policy by which this server may throw away locks that are held, if it has one.
    pub(crate) fn may_evict(&self) -> Option<&str> {
        let evicts = self.max_memory > 0 && self.policy != "noeviction";
        evicts.then_some(self.policy.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use locker_core::ErrorKind;

    fn info(version: &str, mode: &str, role: &str) -> String {
        format!(
            "# Server\r\nredis_version:{version}\r\nredis_git_sha1:00000000\r\nredis_mode:{mode}\r\n\
             # Memory\r\nused_memory:1\r\nmaxmemory:0\r\nmaxmemory_human:0B\r\n\
             maxmemory_policy:noeviction\r\n# Replication\r\nrole:{role}\r\n"
        )
    }

    fn kind(text: &str, as_cluster: bool) -> Option<ErrorKind> {
        let checked = Server::parse(text).and_then(|server| server.check(as_cluster));
        checked.err().map(|error| error.kind())
    }

    #[test]
    fn releases_are_told_apart() {
        for (version, accepted) in [
            ("2.8.24", false),
            ("5.0.14", false),
            ("6.0.16", false),
            ("6.2.0", true),
            ("6.2.14", true),
            ("7.0.15", true),
            ("7.2.4", true),
            ("8.0.0", true),
            ("10.1", true),
            ("255.255.255", true),
        ] {
            let found = kind(&info(version, "standalone", "master"), false);
            assert_eq!(found.is_none(), accepted, "{version}: {found:?}");
        }
        let error = Server::parse(&info("6.0.16", "standalone", "master")).unwrap();
        let error = error.check(false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("6.0"), "{error}");
    }

    #[test]
    fn a_valkey_server_goes_by_the_release_that_it_is_compatible_with() {
        let text = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\n\
                    valkey_version:8.0.1\r\nredis_mode:standalone\r\nserver_mode:standalone\r\n\
                    # Replication\r\nrole:master\r\n";
        let server = Server::parse(text).unwrap();
        assert_eq!(server.version, Version(7, 2));
        assert!(server.check(false).is_ok());
    }

    #[test]
    fn what_is_no_server_of_ours_is_a_configuration_error() {
        for text in ["", "HTTP/1.1 400 Bad Request", "redis_version:x.y\r\n"] {
            assert_eq!(kind(text, false), Some(ErrorKind::Config), "{text:?}");
        }
    }

    #[test]
    fn the_url_must_fit_the_deployment() {
        for (mode, as_cluster, says) in [
            ("cluster", false, "redis+cluster://"),
            ("standalone", true, "redis://"),
            ("sentinel", false, "redis+sentinel://"),
            ("sentinel", true, "redis+sentinel://"),
        ] {
            let server = Server::parse(&info("7.0.15", mode, "master")).unwrap();
            let error = server.check(as_cluster).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert_eq!(kind(&info("7.0.15", "cluster", "master"), true), None);
        let replica = kind(&info("7.0.15", "standalone", "slave"), false);
        assert_eq!(replica, Some(ErrorKind::Unavailable));
    }

    #[test]
    fn eviction_is_noticed() {
        let quiet = info("7.0.15", "standalone", "master");
        assert_eq!(Server::parse(&quiet).unwrap().may_evict(), None);
        let policy = quiet.replace("noeviction", "allkeys-lru");
        assert_eq!(
            Server::parse(&policy).unwrap().may_evict(),
            None,
            "without a limit nothing is evicted"
        );
        let evicting = policy.replace("maxmemory:0", "maxmemory:1000");
        let server = Server::parse(&evicting).unwrap();
        assert_eq!(server.may_evict(), Some("allkeys-lru"));
    }
}
