//! A server alone, a server behind sentinels, or a cluster: how a connection is opened, and one way
//! to send a command over it.
//!
//! Nothing here reconnects or repeats: after an error the locker drops the connection and opens
//! another, so that it knows when it was cut off. The exception is the client of a cluster, which
//! keeps a connection to every node, follows redirects and goes on when a node is replaced; why its
//! repetitions are harmless is said at each operation, in `locks` and `processes`.

use crate::cluster::slots;
use crate::error::{self, Stage};
use crate::url::{Address, Deployment, Login, Place};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use locker_core::BackendError;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, Value,
};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A net under the locker's own timeouts, which are shorter: whoever opens a connection without a
/// locker does not wait for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the client of a cluster waits for one node to answer one attempt.
///
/// It is there for what no caller bounds. While the client reads the slots anew it carries no
/// request to anybody before all nodes have answered, and one that hangs would stop the others for
/// ever.
///
/// An attempt that ran out of time is sent again if somebody still waits for its answer, and the
/// first may have been executed all the same. That repeats no effect (`locks`, `processes`), but a
/// release that was done is told that its lock was gone. So this is longer than anybody waits: than
/// the request timeout of a locker by default, and than whatever is bounded in this crate. Where a
/// locker is given more time than this, and a node takes it, a job that has ended well may be told
/// that its lock was lost; never the reverse.
const CLUSTER_ANSWER: Duration = CONNECT_TIMEOUT;
/// How long the client of a cluster waits for a connection to one node. That is two round trips, three or
/// four with TLS, so a node is to be had at up to 0.5 s of a round trip, or 0.25 s. One whose first packet
/// is lost is not, because the kernel sends it again after a second.
///
/// While a node hangs, this is what everybody on the connection waits for whenever the client reads
/// the slots: when it is opened, and then whenever somebody asks by this client for what lies there. So it
/// must be far less than the four request timeouts that a locker gives to an opening, also where that is as
/// short as the README allows. The client would wait twice when it is opened, first for the nodes of the
/// URL; so it is given only those that answer ([`OTHERS`]).
const CLUSTER_CONNECT: Duration = Duration::from_secs(1);
/// How long those are waited for who are asked the same, or opened, beside one that has answered. They take
/// the same time, or are in trouble.
pub(crate) const OTHERS: Duration = Duration::from_millis(100);
/// How long the other end may take to acknowledge what was sent, before the kernel breaks the
/// connection (`TCP_USER_TIMEOUT`).
///
/// By default the kernel repeats what was sent for a quarter of an hour. The locker finds a dead
/// connection earlier by requests that run out of time, but it judges all the sockets of a cluster as
/// one, which answers as long as one of them does; and it learns little from callers that come seldom
/// and leave early. A dead socket is broken by this, whoever waits for it, and is replaced as any that
/// broke.
///
/// A store that is slow, or has stopped, acknowledges all the same, as long as there is room for what
/// it is sent: that is its kernel's business. So this bounds the outages of the network over which a
/// connection lasts. It is longer than the locker gives to a request or an opening by default, so that
/// it judges first where it can, and not longer than the time after which a process that is cut off
/// counts as dead.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// How often the client of a cluster sends a request again: as often as by its own default.
///
/// Redirects take most of them, and do not wait. While a slot is being moved, each time that others
/// come between ASKING and its command is two more: so many let three locks of one slot through at
/// once, and more locks are the business of the pipelines (`primaries`).
///
/// Where a node is gone, a request is tried for half a second or so. Nothing is sent to where there is
/// no connection, or for somebody who has left. Where a node executes and then breaks the connection, it
/// may be executed as often as that, which repeats no effect (`locks`, `processes`). But of a release
/// that was done like that the next answer says that the lock was gone: a job that has ended well is told
/// that it was lost. Never the reverse. So this client carries releases only where a primary cannot be
/// reached by a connection of our own, or has refused one (`primaries`).
const CLUSTER_RETRIES: u32 = 16;
/// What it waits between two attempts if it does wait, in milliseconds; together less than a
/// request's timeout.
const CLUSTER_WAIT: (u64, u64) = (10, 80);

/// Where a store is.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Place(Place),
    /// A client that was handed in: its configuration is opened again for every connection.
    Client(Client),
}

/// Who takes what a server sends without having been asked: messages of a subscription.
pub(crate) type PushTaker = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// An open connection. Clones share it; it closes with the last of them.
#[derive(Clone)]
pub(crate) enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Cluster(_) => "Cluster",
        })
    }
}

impl Source {
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Place(place) if place.deployment == Deployment::Cluster)
    }

    /// Opens a connection on the current runtime. With a taker of pushes it can subscribe.
    pub(crate) async fn open(&self, pushes: Option<PushTaker>) -> Result<Connection, BackendError> {
        let protocol = match &pushes {
            Some(_) => ProtocolVersion::RESP3,
            None => ProtocolVersion::RESP2,
        };
        let client = match self {
            Self::Place(place) if place.deployment == Deployment::Cluster => {
                return place.open_cluster(protocol, pushes).await;
            }
            Self::Place(place) => place.client(protocol).await?,
            Self::Client(client) => {
                let info = client.get_connection_info().clone();
                let login = info.redis_settings().clone().set_protocol(protocol);
                let tcp = with_ours(info.tcp_settings().clone());
                let info = info.set_redis_settings(login).set_tcp_settings(tcp);
                Client::open(info).map_err(connecting)?
            }
        };
        Ok(Connection::Server(multiplexed(&client, pushes).await?))
    }

    /// Opens a connection to one node of a cluster, which follows no redirects. The taker hears of its
    /// end.
    pub(crate) async fn open_node(
        &self,
        node: &Address,
        pushes: PushTaker,
    ) -> Result<MultiplexedConnection, BackendError> {
        let Self::Place(place) = self else {
            return Err(error::config("the nodes of a cluster are behind a URL"));
        };
        let info = place.info(node, ProtocolVersion::RESP3)?;
        multiplexed(&place.client_of(info)?, Some(pushes)).await
    }
}

/// The answer to a request that no caller bounds, or that there is none in time.
pub(crate) async fn bounded<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, BackendError>>,
) -> Result<T, BackendError> {
    let answer = tokio::time::timeout(limit, request).await;
    answer.unwrap_or_else(|_| Err(BackendError::timeout()))
}

/// The next answer of several, or that there is none left, or none by then.
pub(crate) async fn next_by<T>(
    answers: &mut (impl Stream<Item = T> + Unpin),
    until: Option<Instant>,
) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, answers.next()).await.unwrap_or(None),
        None => answers.next().await,
    }
}

async fn multiplexed(
    client: &Client,
    pushes: Option<PushTaker>,
) -> Result<MultiplexedConnection, BackendError> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        // The locker bounds every request, and must know that it gave up.
        .set_response_timeout(None);
    if let Some(pushes) = pushes {
        config = config.set_push_sender(sender(pushes));
    }
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await.map_err(connecting)
}

fn sender(pushes: PushTaker) -> impl Fn(PushInfo) -> Result<(), ()> + Send + Sync + 'static {
    move |push| {
        pushes(push);
        Ok(())
    }
}

fn connecting(error: RedisError) -> BackendError {
    error::from_redis(error, Stage::Connecting)
}

impl Place {
    async fn client(&self, protocol: ProtocolVersion) -> Result<Client, BackendError> {
        match &self.deployment {
            Deployment::Sentinel { master, login } => self.ask(master, login, protocol).await,
            Deployment::Standalone | Deployment::Cluster => {
                let Some(info) = self.infos(protocol)?.into_iter().next() else {
                    return Err(error::config("a host is missing in the URL"));
                };
                self.client_of(info)
            }
        }
    }

    /// Asks the sentinels for the server that is the master now.
    async fn ask(
        &self,
        master: &str,
        login: &Login,
        protocol: ProtocolVersion,
    ) -> Result<Client, BackendError> {
        let sentinels = self.nodes.iter().map(|node| self.address(node));
        let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)
            .map_err(connecting)?
            .set_client_to_redis_db(self.db)
            .set_client_to_redis_protocol(protocol)
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        if let Some(user) = &self.login.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.login.password {
            builder = builder.set_client_to_redis_password(password.reveal());
        }
        if let Some(user) = &login.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &login.password {
            builder = builder.set_client_to_sentinel_password(password.reveal());
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let certificates = tls.certificates()?;
            builder = builder
                .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_tls_mode(redis::TlsMode::Secure)
                .set_client_to_sentinel_certificates(certificates);
        }
        let mut sentinels = builder.build().map_err(connecting)?;
        sentinels.async_get_client().await.map_err(connecting)
    }

    async fn open_cluster(
        &self,
        protocol: ProtocolVersion,
        pushes: Option<PushTaker>,
    ) -> Result<Connection, BackendError> {
        let nodes = self.infos(protocol)?;
        let sound = self.sound(&nodes).await;
        let is_choice = !sound.is_empty() && sound.len() < nodes.len();
        if is_choice && let Ok(connection) = self.open_from(sound, protocol, pushes.clone()).await {
            return Ok(connection);
        }
        // What the client says of all is why it cannot be opened.
        self.open_from(nodes, protocol, pushes).await
    }

    /// Opens a cluster that these nodes know of.
    async fn open_from(
        &self,
        nodes: Vec<ConnectionInfo>,
        protocol: ProtocolVersion,
        pushes: Option<PushTaker>,
    ) -> Result<Connection, BackendError> {
        let (least, most) = CLUSTER_WAIT;
        let mut builder = ClusterClientBuilder::new(nodes)
            .retries(CLUSTER_RETRIES)
            .retry_wait_formula(least, 2)
            .min_retry_wait(least)
            .max_retry_wait(most)
            .connection_timeout(CLUSTER_CONNECT)
            .response_timeout(CLUSTER_ANSWER)
            // The locker bounds every request, and must know that it gave up.
            .overall_response_timeout(None)
            .tcp_settings(tcp())
            .use_protocol(protocol);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            builder = builder
                .tls(redis::TlsMode::Secure)
                .certs(tls.certificates()?);
        }
        if let Some(pushes) = pushes {
            builder = builder.push_sender(sender(pushes));
        }
        let client = builder.build().map_err(connecting)?;
        let connection = client.get_async_connection().await;
        Ok(Connection::Cluster(connection.map_err(connecting)?))
    }

    /// Those of several nodes that know of slots, and say so over a new connection. A node that was reset, or
    /// has never met the others, answers as well, and may be the nearest.
    async fn sound(&self, nodes: &[ConnectionInfo]) -> Vec<ConnectionInfo> {
        if nodes.len() == 1 {
            return Vec::new();
        }
        let connect = async |node: &ConnectionInfo| {
            let node = node.clone();
            // A connection can be had to one that hangs.
            let connection = multiplexed(&self.client_of(node.clone())?, None).await?;
            slots::ask(&Connection::Server(connection)).await?;
            Ok::<_, BackendError>(node)
        };
        let mut asked: FuturesUnordered<_> = nodes.iter().map(connect).collect();
        let mut sound = Vec::new();
        let mut until = Instant::now() + CLUSTER_CONNECT;
        while let Some(answer) = next_by(&mut asked, Some(until)).await {
            let Ok(node) = answer else { continue };
            if sound.is_empty() {
                until = Instant::now() + OTHERS;
            }
            sound.push(node);
        }
        sound
    }

    fn address(&self, (host, port): &Address) -> ConnectionAddr {
        match &self.tls {
            None => ConnectionAddr::Tcp(host.clone(), *port),
            Some(_) => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
        }
    }

    fn infos(&self, protocol: ProtocolVersion) -> Result<Vec<ConnectionInfo>, BackendError> {
        let nodes = self.nodes.iter();
        nodes.map(|node| self.info(node, protocol)).collect()
    }

    fn info(
        &self,
        node: &Address,
        protocol: ProtocolVersion,
    ) -> Result<ConnectionInfo, BackendError> {
        let mut login = RedisConnectionInfo::default()
            .set_db(self.db)
            .set_protocol(protocol)
            // One command less to be allowed, and nobody needs it.
            .set_skip_set_lib_name();
        if let Some(user) = &self.login.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.login.password {
            login = login.set_password(password.reveal());
        }
        let info = self.address(node).into_connection_info();
        let info = info.map_err(connecting)?;
        Ok(info.set_redis_settings(login).set_tcp_settings(tcp()))
    }

    #[cfg(feature = "tls")]
    fn client_of(&self, info: ConnectionInfo) -> Result<Client, BackendError> {
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.certificates()?),
            None => Client::open(info),
        }
        .map_err(connecting)
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self)]
    fn client_of(&self, info: ConnectionInfo) -> Result<Client, BackendError> {
        Client::open(info).map_err(connecting)
    }
}

fn tcp() -> TcpSettings {
    with_ours(TcpSettings::default())
}

/// For small requests, each of which somebody waits for. How long he does so at most is what was set
/// already, if it was.
fn with_ours(settings: TcpSettings) -> TcpSettings {
    let unacknowledged = settings.user_timeout().unwrap_or(UNACKNOWLEDGED);
    settings.set_nodelay(true).set_user_timeout(unacknowledged)
}

#[cfg(feature = "tls")]
impl crate::url::Tls {
    /// Reads the files, now: a certificate that was renewed is used by the next connection.
    fn certificates(&self) -> Result<redis::TlsCertificates, BackendError> {
        let read = |path: &std::path::Path| {
            std::fs::read(path).map_err(|cause| {
                let shown = path.display();
                error::config(format!("{shown} cannot be read")).with_source(cause)
            })
        };
        let client_tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(redis::ClientTlsConfig {
                client_cert: read(cert)?,
                client_key: read(key)?,
            }),
            _ => None,
        };
        Ok(redis::TlsCertificates {
            client_tls,
            root_cert: self.ca.as_deref().map(read).transpose()?,
        })
    }
}

impl Connection {
    /// Sends one command.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the command was sent or never will be. Others on this connection are not
    /// disturbed.
    pub(crate) async fn query(&self, command: &Cmd) -> Result<Value, RedisError> {
        // The clone is a handle: requests of many tasks share the connection.
        let value = match self.clone() {
            Self::Server(mut server) => server.req_packed_command(command).await,
            Self::Cluster(mut cluster) => cluster.req_packed_command(command).await,
        }?;
        value.extract_error()
    }

    /// What an error of a request over this connection says about its effect.
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::Server(_) => Stage::Once,
            Self::Cluster(_) => Stage::Repeated,
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F11: also where the locker hears nothing of it.
    #[test]
    fn a_socket_whose_other_end_is_gone_breaks_by_itself() {
        for url in ["redis://a", "redis+sentinel://a,b/m", "redis+cluster://a,b"] {
            let place = Place::parse(url).unwrap();
            for info in place.infos(ProtocolVersion::RESP2).unwrap() {
                let tcp = info.tcp_settings();
                assert_eq!(
                    (tcp.user_timeout(), tcp.nodelay()),
                    (Some(UNACKNOWLEDGED), true)
                );
            }
        }
    }

    #[test]
    fn what_the_owner_of_a_client_has_set_stays() {
        let longer = Duration::from_secs(60);
        let theirs = TcpSettings::default().set_user_timeout(longer);
        assert_eq!(with_ours(theirs).user_timeout(), Some(longer));
        assert_eq!(tcp().user_timeout(), Some(UNACKNOWLEDGED));
    }
}
