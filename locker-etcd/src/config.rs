//! What the three connections of one locker share: where etcd is, and what they know together.

use crate::backend::EtcdBackend;
use crate::base;
use crate::connection::Connection;
use crate::error;
use crate::names::Names;
use crate::session::{Session, revision_of};
use crate::shared::Shared;
use crate::url::Address;
use async_trait::async_trait;
use etcd_client::Client;
use locker_core::backend::Side;
use locker_core::{Backend, BackendError, Connect, Key};
use std::fmt;
use std::sync::Arc;

/// The etcd store.
///
/// Nothing is opened before [`connect`](Connect::connect). Every connection that is made through one
/// value (or a clone of it) belongs to one locker: they know together what that locker's claims
/// compare. Two lockers in one process take two values.
///
/// ```no_run
/// # use locker_etcd::Etcd;
/// # use locker_core::{Connect, backend::Side};
/// # async fn example() -> Result<(), locker_core::BackendError> {
/// let store = Etcd::from_url("etcd://10.0.0.1:2379,10.0.0.2:2379")?.namespace("billing");
/// let backend = store.connect(Side::Caller).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Etcd {
    address: Address,
    namespace: String,
    client: Option<Client>,
    shared: Arc<Shared>,
}

impl Etcd {
    /// The store at this address: `etcd://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]`.
    ///
    /// `etcds://` is the same over TLS (feature `tls`), with the options `?ca=FILE` for who vouches
    /// for the members, in the place of this machine's roots, and `&cert=FILE&key=FILE` for the
    /// client's own certificate, all in PEM. Names, passwords and paths are percent-encoded where
    /// need be. The port is 2379 unless told otherwise.
    ///
    /// # Errors
    ///
    /// `Config`, when it is no such address. No error repeats it.
    pub fn from_url(url: &str) -> Result<Self, BackendError> {
        Ok(Self {
            address: Address::parse(url)?,
            namespace: "locker".to_owned(),
            client: None,
            shared: Arc::default(),
        })
    }

    /// The namespace; the locks of two namespaces never meet. The default is `locker`. Everything
    /// of a namespace lies between the keys `NAMESPACE/` and `NAMESPACE0` of etcd.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Uses a client of the application for the callers' side. Its sockets belong to the runtime on
    /// which it was made, so the Reporter opens connections of its own, to the address.
    ///
    /// The locker cannot close what it has not opened: a client whose connection hangs stays so
    /// until the client itself gives it up. Give it a time-out and keep-alives.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }
}

#[async_trait]
impl Connect for Etcd {
    /// Opens a connection to the first member that answers. It belongs to the current tokio
    /// runtime, which needs its I/O driver and its timers.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    /// * `Config`: the namespace is no name; a certificate cannot be read, or the member's is not
    ///   trusted; the feature `tls` is not compiled in.
    /// * `Denied`: wrong user or password, or a user without the right to read the namespace.
    /// * `Unavailable`: no member answers. Ask again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it closes what it had opened.
    async fn connect(&self, side: Side) -> Result<Arc<dyn Backend>, BackendError> {
        // A namespace obeys the rule of keys, because it is kept like one.
        Key::new(&self.namespace).map_err(|cause| {
            error::config("the namespace is not a name the store can keep").with_source(cause)
        })?;
        let names = Names::new(&self.namespace);
        let probe = names.base();
        let known = self.shared.known();
        let (connection, answer) = match &self.client {
            Some(client) if side == Side::Caller => {
                Connection::over(client.clone(), &probe).await?
            }
            _ => {
                let first = self.shared.first_member();
                Connection::open(&self.address, first, &probe).await?
            }
        };
        // That the revision went back is reported, and the base is forgotten until it is raised.
        let went_on = self.shared.saw(known, revision_of(&answer)).is_ok();
        if went_on && self.shared.base().is_none() {
            self.shared.learn_base(base::found(&answer)?);
        }
        Ok(Arc::new(EtcdBackend::new(Session {
            connection,
            names,
            shared: Arc::clone(&self.shared),
        })))
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("address", &self.address)
            .field("namespace", &self.namespace)
            .field("client", &self.client.as_ref().map(|_| "handed in"))
            .finish_non_exhaustive()
    }
}
