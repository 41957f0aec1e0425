//! One open connection: one socket to one member of the cluster, found among several.
//!
//! A member counts as found when it has answered a linearizable read: one that is cut off from the
//! others, or that has stopped, accepts connections all the same. The members are tried one after
//! the other, each a moment after the one before, so that one that does not answer costs that
//! moment; and every connection begins with another member, so that a bad one is left at the next.

use crate::error::{self, Request, from_client};
use crate::socket::Socket;
use crate::url::{Address, Credentials, Member, Tls};
use etcd_client::{
    Channel, Client, ConnectOptions, GetResponse, KvClient, LeaseClient, WatchClient,
};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use locker_core::{BackendError, ErrorKind};
use std::error::Error;
use std::fmt;
use std::time::Duration;
use tonic::transport::Endpoint;

/// How long a member may take before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(250);

/// A connection. Dropping it closes its socket.
pub(crate) struct Connection {
    client: Client,
    /// `None` where the client was handed in: its sockets are its owner's.
    socket: Option<Socket>,
}

impl Connection {
    /// Opens one to the first member that answers a read of `probe`, and gives that answer.
    pub(crate) async fn open(
        address: &Address,
        first: usize,
        probe: &[u8],
    ) -> Result<(Self, GetResponse), BackendError> {
        let count = address.members.len().max(1);
        let mut members = (0..address.members.len()).map(|n| &address.members[(first + n) % count]);
        let mut trying = FuturesUnordered::new();
        let mut refusal: Option<BackendError> = None;
        let mut next = members.next();
        loop {
            if let Some(member) = next.take() {
                trying.push(Self::open_one(address, member, probe));
                next = members.next();
            }
            let opened = tokio::select! {
                biased;
                opened = trying.next() => opened,
                () = tokio::time::sleep(STAGGER), if next.is_some() => continue,
            };
            match opened {
                Some(Ok(found)) => return Ok(found),
                // What one member says of a password, all say.
                Some(Err(error)) if error.kind() == ErrorKind::Denied => return Err(error),
                Some(Err(error)) => refusal = Some(worse(refusal, error)),
                None if next.is_none() => {
                    return Err(refusal
                        .unwrap_or_else(|| error::config("an address of etcd names no member")));
                }
                None => {}
            }
        }
    }

    /// Uses a client that somebody else has made, and asks it the same question.
    pub(crate) async fn over(
        client: Client,
        probe: &[u8],
    ) -> Result<(Self, GetResponse), BackendError> {
        let connection = Self {
            client,
            socket: None,
        };
        let answer = connection.probe(probe).await?;
        Ok((connection, answer))
    }

    /// Closes the socket now, whoever else holds this value. One that was handed in is left alone.
    pub(crate) fn close(&self) {
        if let Some(socket) = &self.socket {
            socket.close();
        }
    }

    pub(crate) fn kv(&self) -> KvClient {
        self.client.kv_client()
    }

    pub(crate) fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    pub(crate) fn watch(&self) -> WatchClient {
        self.client.watch_client()
    }

    async fn open_one(
        address: &Address,
        member: &Member,
        probe: &[u8],
    ) -> Result<(Self, GetResponse), BackendError> {
        let endpoint = endpoint(address.tls.as_ref(), member)?;
        let socket = Socket::default();
        let channel = endpoint
            .connect_with_connector(socket.connector(member.authority()))
            .await
            .map_err(|cause| not_connected(member, cause))?;
        let channel = Channel::Tonic(channel);
        let connection = Self {
            client: log_in(channel, address.credentials.as_ref()).await?,
            socket: Some(socket),
        };
        let answer = connection.probe(probe).await?;
        Ok((connection, answer))
    }

    async fn probe(&self, probe: &[u8]) -> Result<GetResponse, BackendError> {
        self.kv()
            .get(probe, None)
            .await
            .map_err(|cause| from_client(cause, Request::Read))
    }
}

/// Shows user and password, if there are any. The token that etcd gives for them runs out; that is
/// an error of a connection, and the next connection shows them again.
async fn log_in(
    channel: Channel,
    credentials: Option<&Credentials>,
) -> Result<Client, BackendError> {
    // A member that has lost its leader says so at once, instead of letting requests wait for one.
    let options = ConnectOptions::new().with_require_leader(true);
    let connect = |channel, options| Client::from_channel(channel, Some(options));
    let Some(credentials) = credentials else {
        return connect(channel, options)
            .await
            .map_err(|cause| from_client(cause, Request::Read));
    };
    let with_user = options
        .clone()
        .with_user(&*credentials.user, &*credentials.password);
    match connect(channel.clone(), with_user).await {
        Ok(client) => Ok(client),
        // As every client of etcd does: who asks for nothing is shown nothing.
        Err(cause) if error::is_auth_not_enabled(&cause) => connect(channel, options)
            .await
            .map_err(|cause| from_client(cause, Request::Read)),
        Err(cause) => Err(from_client(cause, Request::Read)),
    }
}

/// Of several refusals, the one that tells more.
fn worse(before: Option<BackendError>, error: BackendError) -> BackendError {
    match before {
        Some(before) if before.kind() == ErrorKind::Config => before,
        _ => error,
    }
}

fn not_connected(member: &Member, cause: tonic::transport::Error) -> BackendError {
    let mut source: Option<&(dyn Error + 'static)> = Some(&cause);
    while let Some(error) = source {
        // What TLS refuses, it will refuse again.
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::InvalidData
        {
            return error::config(format!(
                "the member {} of etcd cannot be trusted as configured",
                member.authority()
            ))
            .with_source(cause);
        }
        source = error.source();
    }
    error::unavailable(format!(
        "the member {} of etcd cannot be connected",
        member.authority()
    ))
    .with_source(cause)
}

#[cfg(feature = "tls")]
fn endpoint(tls: Option<&Tls>, member: &Member) -> Result<Endpoint, BackendError> {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};
    let Some(files) = tls else {
        return plain(member);
    };
    let mut config = ClientTlsConfig::new().domain_name(&member.host);
    config = match &files.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => config.with_native_roots(),
    };
    if let Some((cert, key)) = &files.identity {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Endpoint::from_shared(format!("https://{}", member.authority()))
        .and_then(|endpoint| endpoint.tls_config(config))
        .map_err(|cause| {
            error::config("the certificates of etcd cannot be used").with_source(cause)
        })
}

#[cfg(not(feature = "tls"))]
fn endpoint(tls: Option<&Tls>, member: &Member) -> Result<Endpoint, BackendError> {
    if tls.is_some() {
        return Err(error::config(
            "etcds:// needs the feature `tls` of locker-etcd, which is not compiled in",
        ));
    }
    plain(member)
}

fn plain(member: &Member) -> Result<Endpoint, BackendError> {
    Endpoint::from_shared(format!("http://{}", member.authority())).map_err(|cause| {
        error::config(format!(
            "the member {} of etcd is no host and port",
            member.authority()
        ))
        .with_source(cause)
    })
}

#[cfg(feature = "tls")]
fn read(path: &std::path::Path) -> Result<Vec<u8>, BackendError> {
    // Small files, read once for a connection.
    std::fs::read(path).map_err(|cause| {
        error::config(format!("the file {} cannot be read", path.display())).with_source(cause)
    })
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client's own text would tell the password.
        f.debug_struct("Connection")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
