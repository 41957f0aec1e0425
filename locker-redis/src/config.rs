//! What the connections of one locker share: where the store is, which keys the locker holds, and
//! the subscription that wakes its waiters.

use crate::backend::RedisBackend;
use crate::connection::Source;
use crate::dead::Dead;
use crate::grants::Grants;
use crate::hints::Hub;
use crate::names::Names;
use crate::server::{self, Server};
use crate::session::Session;
use crate::subscription::Subscription;
use crate::url::Place;
use async_trait::async_trait;
use locker_core::backend::Side;
use locker_core::{Backend, BackendError, Connect, ProcessHash};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::runtime::Handle;

/// The Redis store: one server, a server behind Sentinel, or a Cluster.
///
/// Nothing is opened before [`connect`](Connect::connect). Every connection that is made through one
/// value (or a clone of it) belongs to one locker: they share the subscription by which its waiters
/// are woken. Two lockers in one process take two values.
///
/// ```no_run
/// # use locker_redis::Redis;
/// # use locker_core::{Connect, backend::Side};
/// # async fn example() -> Result<(), locker_core::BackendError> {
/// let store = Redis::from_url("redis://localhost")?.namespace("billing");
/// let backend = store.connect(Side::Caller).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Redis {
    source: Source,
    namespace: String,
    shared: Arc<Shared>,
}

/// What its connections share lies behind locks, which must not be held while somebody's writer stands
/// still.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("source", &self.source)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// What the connections of one locker have in common.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) grants: Grants,
    pub(crate) dead: Dead,
    /// One for each runtime on which somebody watches: that is the callers' only, as a rule. A hub
    /// lives by its connections and its streams.
    hubs: Mutex<Vec<Weak<Hub>>>,
    warned: AtomicBool,
}

impl Redis {
    /// The store that a URL names.
    ///
    /// | URL | store |
    /// | --- | --- |
    /// | `redis://[USER:PASSWORD@]HOST[:PORT][/DB]` | one server |
    /// | `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]/NAME[/DB]` | the server that these sentinels call by this name; `?sentinel_user=…&sentinel_password=…` where the sentinels ask for it |
    /// | `redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]` | a cluster that these nodes belong to |
    ///
    /// With `rediss` in the place of `redis` it is TLS (cargo feature `tls`); `?ca=FILE` trusts
    /// these authorities instead of the system's, `&cert=FILE&key=FILE` shows a certificate. User
    /// and password are percent-encoded.
    ///
    /// # Errors
    ///
    /// [`BackendError`] of kind `Config`, with what is wrong and without any secret.
    pub fn from_url(url: &str) -> Result<Self, BackendError> {
        Ok(Self::over(Source::Place(Place::parse(url)?)))
    }

    /// The store of an existing client: its configuration is used for connections of our own. The
    /// client itself sends nothing.
    pub fn client(client: redis::Client) -> Self {
        Self::over(Source::Client(client))
    }

    fn over(source: Source) -> Self {
        Self {
            source,
            namespace: "locker".to_owned(),
            shared: Arc::default(),
        }
    }

    /// The namespace: what every key begins with, and a colon. The locks of two namespaces never
    /// meet. The default is `locker`; 1 to 64 bytes without NUL and braces are allowed, and
    /// [`connect`](Connect::connect) refuses others.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        // The locks of another namespace are another locker's.
        self.shared = Arc::default();
        self
    }
}

#[async_trait]
impl Connect for Redis {
    /// Opens a connection on the current tokio runtime, which needs its I/O driver and its timers.
    ///
    /// # Errors
    ///
    /// * `Config`: the server is older than Redis 6.2, or of another kind than the URL says; there is
    ///   no such database; its TLS certificate is not accepted; the namespace is not allowed.
    /// * `Denied`: the server does not accept the user and the password, or the user lacks a right.
    /// * `Unavailable`: nobody answers, or the server is no master now. Ask again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves nothing behind.
    async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        let names = Arc::new(Names::new(&self.namespace)?);
        let connection = self.source.open(None).await?;
        let servers = server::examine(&self.source, &connection).await?;
        self.shared.warn(&servers);
        let hinting = !connection.is_cluster() || servers.iter().all(Server::has_sharded_channels);
        let mut session = Session::new(connection, names, Arc::clone(&self.shared));
        // A process reports one thing at a time.
        if side != Side::Reports {
            session = session.gathering(&self.source).await;
        }
        let source = hinting.then(|| self.source.clone());
        Ok(Arc::new(RedisBackend::new(session, source)))
    }
}

impl Shared {
    /// The hub of a runtime, which all its connections share.
    ///
    /// # Errors
    ///
    /// As [`Subscription::new`].
    pub(crate) fn hub(
        self: &Arc<Self>,
        source: &Source,
        names: &Arc<Names>,
        runtime: &Handle,
    ) -> Result<Arc<Hub>, BackendError> {
        let mut hubs = self.hubs();
        hubs.retain(|hub| hub.strong_count() > 0);
        let mut open = hubs.iter().filter_map(Weak::upgrade);
        if let Some(hub) = open.find(|hub| hub.is_of(runtime)) {
            return Ok(hub);
        }
        let names = Arc::clone(names);
        let subscription =
            Subscription::new(source.clone(), names, Arc::downgrade(self), runtime.clone())?;
        let hub = Hub::new(subscription, runtime);
        hubs.push(Arc::downgrade(&hub));
        Ok(hub)
    }

    /// Ends everything that this process waits for.
    pub(crate) fn end_watches(&self, process: &ProcessHash) {
        let hubs: Vec<Arc<Hub>> = self.hubs().iter().filter_map(Weak::upgrade).collect();
        for hub in hubs {
            hub.end_process(process);
        }
    }

    fn hubs(&self) -> MutexGuard<'_, Vec<Weak<Hub>>> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once that the server may throw locks away.
    fn warn(&self, servers: &[Server]) {
        let policy = servers.iter().find_map(Server::may_evict);
        if let Some(policy) = policy
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                policy,
                "the Redis server evicts keys when its memory is full (maxmemory-policy): a lock \
                 that is held may vanish, and its owner learns of it at its next check; use the \
                 policy noeviction"
            );
        }
    }
}
